"""Sliced Wasserstein against POT, SciPy, Gaussians in closed form, and its own scatter over directions."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from atlas_metrics_builtin import sliced_wasserstein
from atlas_metrics_builtin.sliced_wasserstein import (
    SlicedWasserstein,
    quantile_steps,
    random_directions,
    squared_distances,
)
from scipy import special, stats


def points(n, d, seed, scale=1.0):
    return scale * np.random.default_rng(seed).standard_normal((n, d))


@pytest.mark.parametrize(("n", "m"), [(50, 50), (60, 40), (37, 91), (1, 8)])
def test_it_is_what_pot_computes_along_the_same_directions(n, m):
    x, y = points(n, 5, 0), points(m, 5, 1, 1.5) + 0.3
    directions = random_directions(40, 5, seed=2)
    squares = squared_distances(torch.from_numpy(x), torch.from_numpy(y), directions)
    theirs = ot.sliced_wasserstein_distance(x, y, projections=directions.numpy().T, p=2)
    assert math.sqrt(float(squares.mean())) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(3, 3), (4, 6), (5, 7), (1, 9)])
def test_quantiles_of_unequal_sets_are_coupled_exactly(n, m):
    rows, columns, masses = quantile_steps(n, m)
    plan = torch.zeros(n, m, dtype=torch.float64).index_put_((rows, columns), masses, accumulate=True)
    x, y = (np.sort(points(size, 1, size), axis=0) for size in (n, m))
    expected = ot.emd_1d(x, y, np.full(n, 1 / n), np.full(m, 1 / m), metric="sqeuclidean")
    torch.testing.assert_close(plan, torch.from_numpy(expected), rtol=0, atol=1e-15)


def test_chunks_of_directions_change_nothing(monkeypatch):
    x, y, directions = (
        torch.from_numpy(points(30, 4, 0)),
        torch.from_numpy(points(20, 4, 1)),
        random_directions(17, 4, 0),
    )
    whole = squared_distances(x, y, directions)
    monkeypatch.setattr(sliced_wasserstein, "CHUNK", 30 * 5)
    torch.testing.assert_close(squared_distances(x, y, directions), whole, rtol=1e-12, atol=0)


def test_a_shift_and_a_scaling_have_closed_forms(as_batch):
    """For N(0, I) and N(μ, s²I) in d dimensions SW₂² = |μ|²/d + (1 − s)². The points are quantiles along each axis of a
    product grid, so only the grid's own error (3 % of a deviation) and that of the directions remain."""
    axis = special.ndtri((np.arange(40) + 0.5) / 40)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    shift = np.array([0.6, -0.8])
    metric = SlicedWasserstein(directions=1000)
    metric.update(as_batch(1.5 * grid + shift), as_batch(grid))
    result = metric.compute()
    expected = math.sqrt(1.0 / 2 + 0.25)
    assert abs(result.value - expected) < 3 * result.details["standard_error"] + 0.03 * 0.5
    assert result.details["standard_error"] < 0.02
    # A shift alone is exact along every direction: the mean of ⟨θ, μ⟩².
    metric = SlicedWasserstein(directions=300)
    metric.update(as_batch(grid + shift), as_batch(grid))
    shares = random_directions(300, 2, 0).numpy() @ shift
    assert metric.compute().value == pytest.approx(math.sqrt(np.mean(shares**2)), rel=1e-5)  # points come as float32


def test_the_standard_error_is_the_scatter_over_seeds(as_batch, normal):
    x, y = as_batch(normal(80, d=6)), as_batch(normal(50, d=6, seed=1) * torch.tensor([3.0, 1, 1, 1, 1, 1]))
    values, errors = [], []
    for seed in range(200):
        metric = SlicedWasserstein(directions=50, seed=seed)
        metric.update(x, y)
        result = metric.compute()
        values.append(result.value)
        errors.append(result.details["standard_error"])
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.2)


def test_in_one_dimension_it_is_the_wasserstein_distance(as_batch, normal):
    x, y = normal(40, d=1), normal(25, d=1, seed=1, mean=1.0)
    metric = SlicedWasserstein(directions=3)
    metric.update(as_batch(x), as_batch(y))
    result = metric.compute()
    squared = ot.wasserstein_1d(x.double().numpy()[:, 0], y.double().numpy()[:, 0], p=2)
    assert result.value == pytest.approx(math.sqrt(squared), rel=1e-9)
    assert (result.n, result.details["n_real"]) == (40, 25)
    assert result.details["standard_error"] == pytest.approx(0, abs=1e-9)


def test_directions_are_uniform_and_belong_to_their_number():
    directions = random_directions(4000, 3, seed=1)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(4000, dtype=torch.float64))
    # Archimedes: a coordinate of a point on the sphere in three dimensions is uniform.
    assert all(stats.kstest(directions[:, k].numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3 for k in range(3))
    assert torch.equal(random_directions(10, 3, seed=1), directions[:10])
    assert not torch.equal(random_directions(10, 3, seed=2), directions[:10])


def test_a_set_is_at_no_distance_from_itself_and_needs_a_sample(as_batch, normal):
    metric = SlicedWasserstein()
    metric.update(as_batch(normal(30)), as_batch(normal(30).flip(0)))
    result = metric.compute()
    assert result.value == pytest.approx(0, abs=1e-12)
    assert result.details["standard_error"] == pytest.approx(0, abs=1e-12)
    metric = SlicedWasserstein()
    metric.update(as_batch(normal(5)), as_batch(normal(0)))
    with pytest.raises(ValueError, match="at least 1 real"):
        metric.compute()
