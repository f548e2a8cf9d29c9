"""The Cauchy kernel against numpy, and through the machinery that every kernel gets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from atlas_example_kernel import Cauchy

from atlas_core.contracts import Kernel


def test_equals_its_formula_and_is_one_on_the_diagonal():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 7)), rng.normal(size=(40, 7))
    expected = 1 / (1 + ((x[:, None] - y[None]) ** 2).sum(-1) / 0.5**2)
    kernel = Cauchy(scale=0.5)
    assert isinstance(kernel, Kernel)
    np.testing.assert_allclose(kernel.log_kernel(torch.tensor(x), torch.tensor(y)).exp(), expected, rtol=1e-12)
    assert torch.equal(
        kernel.log_kernel(torch.tensor(x), torch.tensor(x)).diagonal(), torch.zeros(50, dtype=torch.float64)
    )


def test_is_one_half_at_the_scale():
    x, y = torch.zeros(1, 2), torch.tensor([[0.0, 3.0]])
    assert float(Cauchy(scale=3.0).log_kernel(x, y).exp()) == pytest.approx(0.5)


def test_is_positive_definite():
    x = torch.tensor(np.random.default_rng(1).normal(size=(60, 3)))
    assert torch.linalg.eigvalsh(Cauchy().log_kernel(x, x).exp()).min() > -1e-12


def test_names_the_field_that_is_wrong():
    with pytest.raises(ValueError, match="scale"):
        Cauchy(scale=0.0)
