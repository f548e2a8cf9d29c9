"""Guidance against the formula of Ho & Salimans, on noise as they write it."""

from __future__ import annotations

import pytest
import torch
from atlas_solvers_builtin.guidance.classifier_free import ClassifierFree
from atlas_solvers_builtin.guidance.unguided import Unguided

from atlas_core.contracts import GuidanceContext

F64 = torch.float64


def context(d_ref=True):
    rng = torch.Generator().manual_seed(0)
    x, cond, ref = (torch.randn(4, 3, generator=rng, dtype=F64) for _ in range(3))
    return GuidanceContext(
        x=x, d_cond=cond, d_ref=ref if d_ref else None, t=torch.tensor(0.5, dtype=F64), alpha=0.6, sigma=0.8
    )


@pytest.mark.parametrize("w", [-1.0, 0.0, 0.5, 6.0])
def test_cfg_extrapolates_the_noise_as_in_the_paper(w):
    c = context()
    eps_cond, eps_uncond = ((c.x - c.alpha * d) / c.sigma for d in (c.d_cond, c.d_ref))
    eps = (1 + w) * eps_cond - w * eps_uncond  # eq. 6
    guided, state = ClassifierFree(scale=w + 1)(c, None)
    torch.testing.assert_close(guided, (c.x - c.sigma * eps) / c.alpha)
    assert state is None


def test_cfg_refuses_to_guide_without_a_reference():
    with pytest.raises(ValueError, match="unconditional"):
        ClassifierFree()(context(d_ref=False), None)


def test_no_guidance_is_the_conditional_prediction():
    c = context(d_ref=False)
    assert Unguided()(c, None)[0] is c.d_cond
    assert not Unguided.needs
