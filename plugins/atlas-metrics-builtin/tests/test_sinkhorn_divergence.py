"""The Sinkhorn divergence of sets whose transport cost is known, with the solver of atlas-solvers-builtin."""

from __future__ import annotations

import pytest
import torch
from atlas_metrics_builtin.sinkhorn_divergence import SinkhornDivergence

from atlas_core import build


def divergence(as_batch, x, y, **config):
    metric = SinkhornDivergence(**config)
    metric.update(as_batch(x), as_batch(y))
    return metric.compute()


def test_two_diracs_are_half_their_squared_distance_apart(as_batch):
    # The default kernel is a Gaussian of scale 1, whose cost is |x − y|² / 2; a single pair has no entropy.
    result = divergence(as_batch, [[0.0, 0.0]], [[3.0, 4.0]])
    assert result.value == pytest.approx(12.5, rel=1e-6)
    assert (result.n, result.features, result.details["converged"]) == (1, "pixels", 1.0)


def test_a_set_has_no_divergence_from_itself(as_batch, normal):
    x = normal(60)
    assert divergence(as_batch, x, x).value == pytest.approx(0, abs=1e-6)


def test_a_shift_costs_half_its_squared_length(as_batch, normal):
    # For the quadratic cost OT_ε(x, x + h) = OT_ε(x, x) + |h|² / 2 exactly: ⟨P, x · y⟩ shifts by a constant.
    x = normal(80)
    assert divergence(as_batch, x, x + torch.tensor([0.3, -1.0])).value == pytest.approx(1.09 / 2, rel=1e-3)
    # … and the same ε is used for another contender.
    one, other = (divergence(as_batch, x + shift, x).details["epsilon"] for shift in (0, 5))
    assert one == other > 0


def test_what_depends_on_the_data_comes_from_the_real_set_in_all_three_terms(as_batch, normal):
    """Else each term has a cost of its own, and a shift by h does not cost |h|² in the unit of the real set."""
    x, way = normal(60), torch.tensor([2.0, 0.0])
    unit = float(torch.cdist(x.double(), x.double()).square().mean())
    relative = build("kernel", "atlas-kernels-builtin:squared-euclidean", scale="mean")
    for solver in ("sinkhorn", "sinkhorn-divergence"):
        result = divergence(as_batch, x + way, x, solver=build("solver", solver, kernel=relative))
        assert result.value == pytest.approx(4 / unit, rel=1e-4)
        assert result.details["epsilon"] == pytest.approx(0.5)
    # At a price of mass the definition holds only with one price in all three.
    free = build("solver", "sinkhorn-unbalanced", kernel=relative, tolerance=1e-8)
    result = divergence(as_batch, x + way, x, solver=free)
    fixed = build("kernel", "atlas-kernels-builtin:squared-euclidean", scale=unit)
    expected = build("solver", "sinkhorn-divergence", kernel=fixed, epsilon=0.5, rho=1.0, tolerance=1e-8)
    assert result.value == pytest.approx(float(expected.solve((x + way).double(), x.double()).value), rel=1e-6)


def test_both_sets_are_cut_to_one_size(as_batch, normal):
    result = divergence(as_batch, normal(90), normal(70, seed=1), size=50)
    assert (result.n, result.details["n_real"]) == (50, 50)
    with pytest.raises(ValueError, match="at least 1 real"):
        divergence(as_batch, normal(5), normal(0))
