"""Guidance against the formulas of the papers, the scores that it follows, and what is left of it at the ends."""

from __future__ import annotations

import math
import pickle

import attrs
import numpy as np
import pytest
import torch
from atlas_solvers_builtin.guidance.autoguidance import Autoguidance
from atlas_solvers_builtin.guidance.classifier_free import ClassifierFree
from atlas_solvers_builtin.guidance.clip import Clip
from atlas_solvers_builtin.guidance.interval import ClassifierFreeInterval
from atlas_solvers_builtin.guidance.projected import AdaptiveProjected
from atlas_solvers_builtin.guidance.rescaled import ClassifierFreeRescaled
from atlas_solvers_builtin.guidance.unguided import Unguided

from atlas_core import build
from atlas_core.contracts import Guidance, GuidanceContext, WeakModel

F64 = torch.float64
EXTRAPOLATING = {
    "cfg": ClassifierFree,
    "cfg-rescale": ClassifierFreeRescaled,
    "cfg-interval": ClassifierFreeInterval,
    "apg": AdaptiveProjected,
    "autoguidance": Autoguidance,
}
ALL = {
    "none": Unguided(),
    "cfg": ClassifierFree(scale=3.0),
    "cfg-rescale": ClassifierFreeRescaled(scale=3.0),
    "cfg-interval": ClassifierFreeInterval(scale=3.0),
    "apg": AdaptiveProjected(scale=3.0, radius=1.5),
    "autoguidance": Autoguidance(scale=3.0),
    "clip": Clip(limits=(-1.0, 1.0), guidance=AdaptiveProjected(scale=3.0)),
    "threshold": Clip(limits=(-1.0, 1.0), quantile=0.7, guidance=ClassifierFree(scale=3.0)),
}
each = pytest.mark.parametrize("guidance", ALL.values(), ids=ALL)


def context(d_ref=True, seed=0, shape=(3,), dtype=F64):
    rng = torch.Generator().manual_seed(seed)
    x, cond, ref = (torch.randn(4, *shape, generator=rng, dtype=dtype) for _ in range(3))
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


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_cfg_of_exact_denoisers_follows_the_score_of_the_sharpened_density(scale, process, mixture):
    """p(x)^(1 − w) p(x|c)^w, its logarithm differentiated by autograd; class 1 of a mixture is one Gaussian."""
    t = torch.tensor(0.6, dtype=F64)
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    one = attrs.evolve(mixture, weights=torch.ones(1, dtype=F64), means=mixture.means[1:2], stds=mixture.stds[1:2])
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=F64) * math.hypot(alpha, sigma)

    def log_density(of, x):
        scale = (alpha**2 * of.stds**2 + sigma**2).sqrt()
        each = torch.distributions.Normal(alpha * of.means, scale[:, None]).log_prob(x[:, None]).sum(-1)
        return (of.weights.log() + each).logsumexp(1)

    y = x.clone().requires_grad_()
    (scale * log_density(one, y) + (1 - scale) * log_density(mixture, y)).sum().backward()
    d_cond, d_ref = (of.denoise(x / alpha, sigma / alpha) for of in (one, mixture))
    guided, _ = ClassifierFree(scale=scale)(GuidanceContext(x, d_cond, d_ref, t, alpha, sigma), None)
    torch.testing.assert_close((alpha * guided - x) / sigma**2, y.grad, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", EXTRAPOLATING)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_scale_1_is_the_conditional_and_needs_no_reference(name, dtype):
    guidance, c = EXTRAPOLATING[name](scale=1.0), context(dtype=dtype)
    assert torch.equal(guidance(c, None)[0], c.d_cond)
    levels = torch.linspace(-20, 20, 9, dtype=F64)
    assert not guidance.refers(levels).any()
    assert torch.equal(guidance(attrs.evolve(c, d_ref=None), None)[0], c.d_cond)


@pytest.mark.parametrize("guidance", [ClassifierFree(scale=0.0), ClassifierFreeInterval(scale=0.0), Autoguidance(0.0)])
def test_scale_0_is_the_reference_bit_for_bit(guidance):
    c = context(dtype=torch.float32)
    assert torch.equal(guidance(c, None)[0], c.d_ref)


def test_what_is_switched_off_leaves_cfg():
    c = context(shape=(2, 3, 3))
    expected, _ = ClassifierFree(scale=4.0)(c, None)
    for guidance in (ClassifierFreeRescaled(scale=4.0, rescale=0.0), AdaptiveProjected(4.0, eta=1.0, momentum=0.0)):
        got, state = guidance(c, None)
        torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-14)
        assert state is None
        assert not guidance.stateful


def test_rescaling_restores_the_contrast():
    c = context(shape=(2, 5, 5))
    full, _ = ClassifierFreeRescaled(scale=6.0, rescale=1.0)(c, None)
    np.testing.assert_allclose(full.numpy().std((1, 2, 3)), c.d_cond.numpy().std((1, 2, 3)), rtol=1e-12)
    cfg, _ = ClassifierFree(scale=6.0)(c, None)
    half, _ = ClassifierFreeRescaled(scale=6.0, rescale=0.7)(c, None)
    torch.testing.assert_close(half, 0.7 * full + 0.3 * cfg, rtol=1e-12, atol=1e-12)  # eq. 16
    np.testing.assert_allclose(full / cfg, np.broadcast_to((full / cfg)[:, :1, :1, :1], cfg.shape), rtol=1e-12)
    one = context(shape=(1,))
    torch.testing.assert_close(
        ClassifierFreeRescaled(scale=6.0, rescale=1.0)(one, None)[0], ClassifierFree(scale=6.0)(one, None)[0]
    )


def test_projected_guidance_is_algorithm_1_of_the_paper_over_several_calls():
    guidance, state, average = AdaptiveProjected(scale=5.0, eta=0.3, momentum=-0.5, radius=4.0), None, 0
    clipped = []
    for seed in range(4):
        c = context(seed=seed, shape=(2, 4, 4))
        got, state = guidance(c, state)
        cond, uncond = (d.numpy().reshape(4, 32) for d in (c.d_cond, c.d_ref))
        average = (cond - uncond) + -0.5 * average
        size = np.linalg.norm(average, axis=1, keepdims=True)
        diff = average * np.minimum(1, 4 / size)
        unit = cond / np.linalg.norm(cond, axis=1, keepdims=True)
        parallel = (diff * unit).sum(1, keepdims=True) * unit
        expected = cond + (5 - 1) * ((diff - parallel) + 0.3 * parallel)
        np.testing.assert_allclose(got.numpy().reshape(4, 32), expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(state.numpy().reshape(4, 32), average, rtol=1e-12, atol=1e-12)
        clipped.append(size > 4)
    assert np.any(clipped)


def test_what_projection_leaves_is_orthogonal_and_within_the_radius():
    c = context(shape=(3, 4))
    push = AdaptiveProjected(scale=3.0, momentum=0.0)(c, None)[0] - c.d_cond
    assert (push * c.d_cond).sum((1, 2)).abs().max() < 1e-12
    assert push.norm() > 0.1
    held = AdaptiveProjected(scale=3.0, eta=1.0, momentum=0.0, radius=0.7)(c, None)[0] - c.d_cond
    torch.testing.assert_close(held.flatten(1).norm(dim=1), torch.full((4,), 2 * 0.7, dtype=F64))
    still = attrs.evolve(c, d_ref=c.d_cond.clone(), d_cond=c.d_cond)
    assert torch.equal(AdaptiveProjected(scale=3.0, radius=0.7)(still, None)[0], c.d_cond)  # no 0/0


def test_the_interval_is_one_of_noise_levels(process):
    guidance = ClassifierFreeInterval(scale=3.0, low=0.3, high=2.0)
    t = torch.linspace(process.t_min, process.t_max, 201, dtype=F64)
    level = process.sigma(t) / process.alpha(t)
    assert torch.equal(guidance.refers(process.log_snr(t)), (level > 0.3) & (level <= 2))
    assert guidance.refers(process.log_snr(t)).any()
    everywhere = ClassifierFreeInterval(scale=3.0, low=0.0, high=math.inf)
    assert everywhere.refers(torch.tensor([-math.inf, 0.0, 50.0], dtype=F64)).all()
    c = context()
    assert torch.equal(guidance(c, None)[0], ClassifierFree(scale=3.0)(c, None)[0])
    assert torch.equal(guidance(attrs.evolve(c, d_ref=None), None)[0], c.d_cond)


def test_autoguidance_names_its_weak_model():
    guidance = Autoguidance(scale=2.0, checkpoint="runs/weak", weights="raw")
    assert guidance.weak_model == WeakModel("runs/weak", "raw")
    assert guidance.needs == Clip(limits=(0.0, 1.0), guidance=guidance).needs == {"weak-model"}
    assert Clip(limits=(0.0, 1.0), guidance=guidance).weak_model == WeakModel("runs/weak", "raw")
    c = context()
    torch.testing.assert_close(guidance(c, None)[0], 2 * c.d_cond - c.d_ref)


def test_clipping_cuts_and_thresholding_scales():
    """Imagen, appendix C, in numpy, on a range that is not symmetric."""
    c = attrs.evolve(context(shape=(5, 5)), d_ref=None)
    x = c.d_cond * torch.tensor([0.1, 1.0, 3.0, 10.0], dtype=F64)[:, None, None] + 2
    c = attrs.evolve(c, d_cond=x)
    cut, _ = Clip(limits=(1.0, 3.0))(c, None)
    np.testing.assert_array_equal(cut.numpy(), np.clip(x.numpy(), 1, 3))
    scaled, _ = Clip(limits=(1.0, 3.0), quantile=0.8)(c, None)
    centred = x.numpy() - 2
    s = np.sort(np.abs(centred).reshape(4, 25), axis=1)[:, 19].clip(1)[:, None, None]  # 20 of 25 are no larger
    assert s.squeeze().tolist() == sorted(s.squeeze())
    assert s[0] == 1 < s[3]
    np.testing.assert_allclose(scaled.numpy(), 2 + np.clip(centred, -s, s) / s, rtol=1e-14)
    assert torch.equal(scaled[0], x[0])  # within the range nothing changes, not even a bit
    assert torch.equal(cut[0], x[0])


@each
def test_a_row_depends_on_its_own_row_alone(guidance):
    """Over three calls, with the state that each leaves; a loop over samples gives the same bits."""
    together, alone = None, [None] * 4
    for seed in range(3):
        c = context(seed=seed, shape=(2, 3))
        got, together = guidance(c, together)
        for i in range(4):
            row = GuidanceContext(c.x[i : i + 1], c.d_cond[i : i + 1], c.d_ref[i : i + 1], c.t, c.alpha, c.sigma)
            one, alone[i] = guidance(row, alone[i])
            torch.testing.assert_close(one, got[i : i + 1], rtol=0, atol=1e-14)
    assert (together is not None) == guidance.stateful
    if guidance.stateful:
        assert torch.equal(torch.cat(alone), together)


@each
def test_it_keeps_the_dtype_changes_no_input_and_round_trips(guidance):
    c = context(dtype=torch.float32, shape=(2, 3))
    before = [v.clone() for v in (c.x, c.d_cond, c.d_ref)]
    _, state = guidance(c, None)
    kept = None if state is None else state.clone()
    assert guidance(c, state)[0].dtype == torch.float32
    assert all(torch.equal(*pair) for pair in zip(before, (c.x, c.d_cond, c.d_ref), strict=True))
    assert kept is None or torch.equal(kept, state)
    assert isinstance(guidance, Guidance)
    assert pickle.loads(pickle.dumps(guidance)) == guidance  # noqa: S301 - our own bytes


@pytest.mark.parametrize("name", EXTRAPOLATING)
def test_without_a_reference_it_refuses_to_guide(name):
    guidance = EXTRAPOLATING[name](scale=2.0)
    if name == "cfg-interval":  # where it says that it wants none, it is given none
        return
    with pytest.raises(ValueError, match="d_ref is None"):
        guidance(context(d_ref=False), None)


def test_no_guidance_is_the_conditional_prediction():
    c = context(d_ref=False)
    assert Unguided()(c, None)[0] is c.d_cond
    assert not Unguided.needs


def test_they_are_found_by_name():
    for name, cls in EXTRAPOLATING.items():
        assert type(build("guidance", name)) is cls
    nested = build("guidance", "clip", limits=[-1, 1], quantile=0.9, guidance={"use": "cfg", "scale": 8})
    assert nested == Clip(limits=(-1.0, 1.0), quantile=0.9, guidance=ClassifierFree(scale=8.0))
    assert Clip(limits=(-1.0, 1.0)).guidance == Unguided()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassifierFreeInterval(low=1.0, high=1.0), "would be empty"),
        (lambda: ClassifierFreeInterval(low=-1.0), "low"),
        (lambda: ClassifierFreeRescaled(rescale=1.5), "rescale"),
        (lambda: AdaptiveProjected(momentum=1.0), "momentum"),
        (lambda: AdaptiveProjected(radius=0.0), "radius"),
        (lambda: Autoguidance(weights="best"), "weights"),
        (lambda: Clip(limits=(1.0, -1.0)), "least and the largest"),
        (lambda: Clip(limits=(0.0, 1.0), quantile=1.0), "quantile"),
    ],
)
def test_a_setting_out_of_range_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
