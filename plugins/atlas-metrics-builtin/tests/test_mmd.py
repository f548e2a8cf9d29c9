"""MMD against Gaussians whose MMD is known, sums written out with another library's kernels, and its own scatter."""

from __future__ import annotations

import math

import attrs
import numpy as np
import pytest
import torch
from atlas_metrics_builtin import mmd
from atlas_metrics_builtin.mmd import MMD, median_distance, mmd_squared
from scipy.spatial.distance import cdist, pdist
from scipy.stats import energy_distance
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel

from atlas_core import build


@attrs.frozen
class Polynomial:
    """(⟨x, y⟩ / d + 1)³: signed, as of the kernel inception distance (Bińkowski et al. 2018)."""

    has_log = False
    item_ndim = 1

    def block(self, x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian(bandwidth=1.0):
    return build("kernel", "atlas-kernels-builtin:gaussian", bandwidth=bandwidth)


def written_out(xx, yy, xy):
    """The U-statistic of Gretton et al. 2012, lemma 6."""
    n, m = xy.shape
    within = [(k.sum() - np.trace(k)) / (size * (size - 1)) for k, size in ((xx, n), (yy, m))]
    return sum(within) - 2 * xy.mean()


@pytest.mark.parametrize("block", [7 * 23, 2**22])
def test_it_is_the_unbiased_statistic(monkeypatch, block):
    monkeypatch.setattr(mmd, "BLOCK", block)  # the smaller: seven rows at a time, and three left over
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((31, 3)), rng.standard_normal((23, 3)) + 0.4
    pairs = [(x, x), (y, y), (x, y)]
    points = torch.from_numpy(x), torch.from_numpy(y)
    h = 1.3
    expected = written_out(*(rbf_kernel(*pair, gamma=1 / (2 * h**2)) for pair in pairs))
    assert mmd_squared(gaussian(h), *points)[0] == pytest.approx(expected, rel=1e-12)
    expected = written_out(*(polynomial_kernel(*pair, degree=3, gamma=1 / 3, coef0=1) for pair in pairs))
    assert mmd_squared(Polynomial(), *points)[0] == pytest.approx(expected, rel=1e-12)


def test_with_the_energy_kernel_it_is_the_energy_distance():
    """2 E|x − y| − E|x − x'| − E|y − y'| (Székely & Rizzo 2013), in its unbiased form; on the line SciPy's, biased."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((31, 3)), rng.standard_normal((23, 3)) + 0.4
    energy = build("kernel", "atlas-kernels-builtin:energy")
    expected = written_out(-cdist(x, x), -cdist(y, y), -cdist(x, y))
    assert mmd_squared(energy, torch.from_numpy(x), torch.from_numpy(y))[0] == pytest.approx(expected, rel=1e-12)
    x, y = x[:, :1], y[:, :1]
    unbiased = mmd_squared(energy, torch.from_numpy(x), torch.from_numpy(y))[0]
    bias = sum(2 * pdist(side).sum() / len(side) ** 2 / (len(side) - 1) for side in (x, y))
    assert unbiased + bias == pytest.approx(energy_distance(x[:, 0], y[:, 0]) ** 2, rel=1e-10)


@pytest.mark.parametrize("name", ["laplacian", "matern", "cauchy", "inverse-multiquadric"])
def test_any_kernel_will_do(name):
    kernel, rng = build("kernel", f"atlas-kernels-builtin:{name}"), np.random.default_rng(2)
    x, y = (torch.from_numpy(rng.standard_normal((size, 2))) for size in (20, 17))
    expected = written_out(*(kernel.log_kernel(*pair).exp().numpy() for pair in ((x, x), (y, y), (x, y))))
    assert mmd_squared(kernel, x, y)[0] == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(("n", "m", "shift", "std"), [(40, 40, 0.0, 1.0), (60, 30, 0.0, 1.0), (30, 60, 0.7, 1.4)])
def test_value_and_standard_error_are_those_of_gaussians(n, m, shift, std):
    """For x ~ N(0, I), y ~ N(μ, s²I): E k(x, y) = (h²/(h² + 1 + s²))^(d/2) exp(−|μ|²/(2(h² + 1 + s²))), d = 2.

    500 draws: the mean within 4 standard errors, and the variance estimate within a quarter of what the draws show. Of
    equal laws, where the linear term vanishes and its estimate is held above 0, it is up to twice that.
    """
    h, generator = 1.2, torch.Generator().manual_seed(0)

    def expected(variance, distance):
        total = h**2 + variance
        return h**2 / total * math.exp(-(distance**2) / (2 * total))

    truth = expected(2, 0) + expected(2 * std**2, 0) - 2 * expected(1 + std**2, shift)
    values, errors = [], []
    for _ in range(500):
        x, y = (torch.randn(size, 2, generator=generator, dtype=torch.float64) for size in (n, m))
        value, error = mmd_squared(gaussian(h), x, std * y + torch.tensor([shift, 0.0]))
        values.append(value)
        errors.append(error)
    spread = np.std(values, ddof=1)
    assert abs(np.mean(values) - truth) < 4 * spread / math.sqrt(500)
    ratio = np.mean(np.square(errors)) / spread**2
    assert 0.8 < ratio < (1.25 if shift else 2.0)


def test_the_bandwidth_is_the_median_distance_within_the_real_set(as_batch, normal):
    x, y = normal(70), 3 * normal(41, seed=1)
    metric = MMD()
    metric.update(as_batch(x), as_batch(y))
    result = metric.compute()
    median = float(np.sort(pdist(y.double().numpy()))[(41 * 40 // 2 - 1) // 2])
    assert result.details["bandwidth"] == pytest.approx(median, rel=1e-12)
    again = MMD(kernel=gaussian(median))
    again.update(as_batch(x), as_batch(y))
    assert again.compute().value == pytest.approx(result.value, rel=1e-12)
    assert (result.n, result.details["n_real"], result.features) == (70, 41, "pixels")
    assert median_distance(torch.ones(5, 2)) == 1.0


def test_real_data_are_as_good_as_real_data_and_others_are_not(as_batch, normal):
    """Within four standard errors of 0 for one law; far beyond for another, whatever the sizes."""
    same, other = MMD(), MMD()
    same.update(as_batch(normal(300, d=8)), as_batch(normal(200, d=8, seed=1)))
    other.update(as_batch(normal(300, d=8, mean=0.6)), as_batch(normal(200, d=8, seed=1)))
    one, two = same.compute(), other.compute()
    assert abs(one.value) < 4 * one.details["standard_error"]
    assert two.value > 6 * two.details["standard_error"]


def test_settings_of_the_kernel_that_depend_on_data_come_from_the_real_set(as_batch, normal):
    @attrs.frozen
    class Scaled:
        has_log = True
        item_ndim = 1
        scale: float | None = None

        def fitted(self, x, y, a=None, b=None):
            return Scaled(float(torch.cdist(x, y).square().mean()))

        def log_kernel(self, x, y):
            return -torch.cdist(x, y).square() / self.scale

    x, y = normal(50), 2 * normal(40, seed=1)
    metric = MMD(kernel=Scaled())
    metric.update(as_batch(x), as_batch(y))
    scale = float(torch.cdist(y.double(), y.double()).square().mean())
    expected, _ = mmd_squared(gaussian(math.sqrt(scale / 2)), x.double(), y.double())
    assert metric.compute().value == pytest.approx(expected, rel=1e-9)


def test_what_cannot_be_compared_is_said(as_batch, normal):
    @attrs.frozen
    class OfImages:
        has_log = True
        item_ndim = 3

    metric = MMD(kernel=OfImages())
    metric.update(as_batch(normal(9)), as_batch(normal(9)))
    with pytest.raises(ValueError, match="OfImages items of 3 dimensions"):
        metric.compute()
    metric = MMD()
    metric.update(as_batch(normal(9)), as_batch(normal(3)))
    with pytest.raises(ValueError, match="at least 4 real"):
        metric.compute()
    metric = MMD()
    metric.update(as_batch(normal(9) / 0), as_batch(normal(9)))
    with pytest.raises(ValueError, match="not finite"):
        metric.compute()
