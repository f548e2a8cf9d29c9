"""The mixture's score against automatic differentiation of torch.distributions, its denoiser against quadrature."""

from __future__ import annotations

import math

import attrs
import numpy as np
import pytest
import torch
from atlas_datasets_builtin.gaussian_mixture import GaussianMixture


@attrs.frozen
class VariancePreserving:
    def alpha(self, t):
        return torch.cos(t * math.pi / 2)

    def sigma(self, t):
        return torch.sin(t * math.pi / 2)


@attrs.frozen
class RectifiedFlow:
    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t


PROCESSES = [VariancePreserving(), RectifiedFlow()]


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def log_density(mixture, x, t, process):
    """log p_t(x) with torch.distributions, which knows nothing of ours but the means."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    std = (alpha**2 * mixture.width**2 + sigma**2).sqrt()
    parts = torch.distributions.Normal(alpha * mixture.means, std)
    return parts.log_prob(x[:, None]).sum(-1).logsumexp(-1)


@pytest.mark.parametrize("process", PROCESSES, ids=["vp", "rectified-flow"])
@pytest.mark.parametrize("t", [0.0, 0.01, 0.5, 1.0])
def test_score_is_the_gradient_of_the_log_density(process, t):
    mixture = GaussianMixture(dims=3, components=5, width=0.3, seed=1)
    x = torch.tensor(np.random.default_rng(0).normal(size=(40, 3)), requires_grad=True)
    (expected,) = torch.autograd.grad(log_density(mixture, x, double(t), process).sum(), x)
    torch.testing.assert_close(mixture.score(x.detach(), double(t), process), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("process", PROCESSES, ids=["vp", "rectified-flow"])
@pytest.mark.parametrize("t", [0.3, 0.7, 1.0])
def test_denoiser_is_the_posterior_mean_by_quadrature(process, t):
    mixture = GaussianMixture(dims=1, components=3, width=0.2, seed=2)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    x0 = torch.linspace(-8, 8, 40001, dtype=torch.float64)
    prior = torch.distributions.Normal(mixture.means[:, 0], mixture.width).log_prob(x0[:, None]).logsumexp(-1)
    alpha, sigma = process.alpha(double(t)), process.sigma(double(t))
    posterior = torch.softmax(prior - (x - alpha * x0).square() / (2 * sigma**2), dim=-1)
    expected = posterior @ x0
    torch.testing.assert_close(mixture.denoise(x, double(t), process)[:, 0], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("process", PROCESSES, ids=["vp", "rectified-flow"])
def test_score_and_denoiser_obey_tweedie_with_one_time_a_row(process):
    mixture = GaussianMixture()
    x = torch.tensor(np.random.default_rng(0).normal(size=(5, 2)))
    t = double([0.1, 0.3, 0.5, 0.8, 1.0])
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    score, denoised = mixture.score(x, t, process), mixture.denoise(x, t, process)
    torch.testing.assert_close(score, (alpha * denoised - x) / sigma**2, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(denoised[2:3], mixture.denoise(x[2:3], t[2], process), rtol=1e-13, atol=0)
    torch.testing.assert_close(mixture.denoise(x, double(0.0), process), x, rtol=1e-13, atol=1e-13)


def test_the_points_follow_the_mixture():
    """At 40k points a component's mean is known to 0.1/√5000 and the share of a component to √(p(1−p)/n): 4 errors."""
    mixture = GaussianMixture(train=40_000, components=8, dims=2)
    train = mixture.split("train")
    counts = torch.bincount(train.labels, minlength=8)
    assert (counts / 40_000 - 1 / 8).abs().max() < 4 * math.sqrt(1 / 8 * 7 / 8 / 40_000)
    for label in range(8):
        points = train.items[train.labels == label].double()
        assert (points.mean(0) - mixture.means[label]).abs().max() < 4 * 0.1 / math.sqrt(len(points))
        assert float((points - mixture.means[label]).std()) == pytest.approx(0.1, rel=4 / math.sqrt(4 * len(points)))


def test_splits_are_disjoint_reproducible_and_independent_of_each_others_size():
    first, second = GaussianMixture(train=100), GaussianMixture(train=50)
    assert torch.equal(first.split("test").items, second.split("test").items)
    assert not torch.isin(first.split("train").items, first.split("test").items).any()
    assert not torch.equal(first.split("train").items, GaussianMixture(train=100, seed=1).split("train").items)
    spec = first.spec
    assert (spec.shape, spec.value_range, spec.levels, len(spec.classes)) == ((2,), None, None, 8)
    assert spec.std == pytest.approx(float(first.split("train").items.double().std(correction=0)))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="width"):
        GaussianMixture(width=0.0)
    with pytest.raises(ValueError, match=r"\(b, 2\)"):
        GaussianMixture().score(torch.zeros(4, 3), double(0.5), RectifiedFlow())
