"""What every solver of two sets owes: weights of 0 are no points, a batch is its problems, and mistakes are named."""

from __future__ import annotations

import math
import warnings
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from atlas_kernels_builtin.grids.grid import Grid
from atlas_kernels_builtin.kernels.energy import Energy
from atlas_kernels_builtin.kernels.squared_euclidean import SquaredEuclidean
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn
from atlas_solvers_builtin.transport.divergence.divergence import SinkhornDivergence
from atlas_solvers_builtin.transport.exact.exact import Exact
from atlas_solvers_builtin.transport.grids.grid_solve import SinkhornGrid
from atlas_solvers_builtin.transport.low_rank.low_rank import LowRank
from atlas_solvers_builtin.transport.unbalanced.unbalanced import SinkhornUnbalanced

from atlas_kernels_builtin import Gaussian

SHARED: dict[str, Any] = {"kernel": Gaussian(), "epsilon": 0.1, "tolerance": 1e-10}
UNBALANCED = SinkhornUnbalanced(**SHARED, rho=0.7)
DIVERGENCE = SinkhornDivergence(**SHARED)
SOLVERS = {
    "newton": Sinkhorn(**SHARED),
    "sweeps": Sinkhorn(**SHARED, method="sinkhorn"),
    "log": Sinkhorn(**SHARED, method="log"),
    "kl": UNBALANCED,
    "tv": attrs.evolve(UNBALANCED, marginals="tv"),
    "semi-kl": attrs.evolve(UNBALANCED, rho_a=math.inf),
    "semi-tv": attrs.evolve(UNBALANCED, marginals="tv", rho_b=math.inf),
    "divergence": DIVERGENCE,
    "divergence-kl": attrs.evolve(DIVERGENCE, rho=0.7),
    "divergence-tv": attrs.evolve(DIVERGENCE, rho=0.7, marginals="tv"),
    "exact": Exact(kernel=Gaussian()),
    "low-rank": LowRank(kernel=Gaussian(), rank=4),
}
WITH_EPSILON = ("newton", "kl", "divergence")
EACH = ("newton", "kl", "divergence", "exact", "low-rank")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("name", SOLVERS)
def test_weights_of_zero_are_no_points_and_a_batch_is_its_problems(name: str) -> None:
    solver, rng = SOLVERS[name], np.random.default_rng(0)
    x, y = normal(3, 12, 2), normal(3, 10, 2, seed=1) + 0.5
    a, b = (torch.tensor(rng.uniform(0.2, 1, size=size)) for size in ((3, 12), (3, 10)))
    a[0, 3], a[0, 0], a[1, 5:9], b[2, :3], b[0, -1] = (0,) * 5
    a, b = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
    x[1, 5], y[2, 0] = 40.0, -60.0  # and they may lie anywhere
    together = solver.solve(x, y, a=a, b=b)
    plans, maps = together.plan(), together.barycentric_map()
    for k in range(3):
        alone = solver.solve(x[k], y[k], a=a[k], b=b[k])
        torch.testing.assert_close(together.value[k], alone.value, rtol=0, atol=1e-8)
        torch.testing.assert_close(plans[k], alone.plan(), rtol=0, atol=1e-9)
        torch.testing.assert_close(maps[k], alone.barycentric_map(), rtol=0, atol=1e-7)
        rows, columns = a[k] > 0, b[k] > 0
        fewer = solver.solve(x[k][rows], y[k][columns], a=a[k][rows], b=b[k][columns])
        torch.testing.assert_close(alone.value, fewer.value, rtol=0, atol=1e-9)
        torch.testing.assert_close(alone.plan()[rows][:, columns], fewer.plan(), rtol=0, atol=1e-9)
        torch.testing.assert_close(maps[k][rows], fewer.barycentric_map(), rtol=0, atol=1e-7)
        assert plans[k][~rows].eq(0).all()
        assert plans[k][:, ~columns].eq(0).all()
        assert maps[k].isfinite().all()  # a point without weight is mapped, too


def test_pixels_of_zero_are_no_points_on_a_grid_either() -> None:
    rng, grid = np.random.default_rng(0), Grid((7, 6), kernel=Gaussian(0.5))
    a, b = (torch.tensor(rng.uniform(0.2, 1, size=(2, 42))) for _ in range(2))
    a[0, :10], b[1, 20:30], a[1, 5], b[0, ::3] = (0,) * 4
    a, b = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
    points = grid.points()
    images = [each.reshape(2, 7, 6) for each in (a, b)]
    together = SinkhornGrid(kernel=grid, epsilon=0.02, tolerance=1e-9).solve_images(*images)
    for k in range(2):
        rows, columns = a[k] > 0, b[k] > 0
        plain = Sinkhorn(kernel=Gaussian(0.5), epsilon=0.02, tolerance=1e-9)
        fewer = plain.solve(points[rows], points[columns], a=a[k][rows], b=b[k][columns])
        torch.testing.assert_close(together.value[k], fewer.value, rtol=1e-9, atol=0)
        torch.testing.assert_close(together.plan()[k][rows][:, columns], fewer.plan(), rtol=0, atol=1e-9)
        assert together.plan()[k][~rows].eq(0).all()


def spoiled(points: torch.Tensor, value: float) -> torch.Tensor:
    points = points.clone()
    points[2, 1] = value
    return points


X, Y = normal(5, 2), normal(4, 2, seed=1)
EVEN = torch.full((4,), 0.25, dtype=torch.float64)
MISTAKES = {
    "nan": ({"x": spoiled(X, math.nan)}, r"x\[2, 1\] is nan"),
    "infinite": ({"y": spoiled(Y, -math.inf)}, r"y\[2, 1\] is -inf"),
    "empty": ({"x": X[:0]}, "x must be a non-empty"),
    "no second set": ({"y": Y[:0]}, "y must be a non-empty"),
    "one dimension": ({"x": X[:, 0]}, "x must be a non-empty"),
    "dimensions": ({"y": normal(4, 3)}, r"different shapes: \(2,\) and \(3,\)"),
    "batches": ({"x": normal(2, 5, 2), "y": normal(3, 4, 2)}, "batch dimensions"),
    "dtypes": ({"x": X.float()}, "x is torch.float32 on cpu, y is torch.float64.*convert one"),
    "devices": ({"y": torch.zeros(4, 2, dtype=torch.float64, device="meta")}, "x is on cpu, y is on meta"),
    "integers": ({"x": X.long(), "y": Y.long()}, r"x holds torch.int64.*\.float\(\)"),
    "half": ({"x": X.half(), "y": Y.half()}, "too coarse for transport"),
    "complex": ({"x": X + 0j, "y": Y + 0j}, "x holds torch.complex128"),
    "arrays": ({"x": X.numpy()}, "x is a ndarray: points must be a tensor"),
    "negative weights": ({"b": torch.tensor([0.5, 0.7, -0.2, 0.0])}, "b holds a weight that is negative"),
    "weights of nan": ({"b": EVEN * math.nan}, "b holds a weight that is negative or not finite"),
    "no weight": ({"b": EVEN * 0}, "b is all zero"),
    "too few weights": ({"a": EVEN}, r"a must hold one weight a point, \(5,\), not \(4,\)"),
    "weights with a batch": ({"b": EVEN.expand(2, 4)}, "b must hold one weight a point"),
    "a list of weights": ({"b": [0.25] * 4}, "b must be a tensor of weights, not a list"),
    "weights elsewhere": ({"b": EVEN.to("meta")}, "b is on meta"),
    "init": ({"init": "warm"}, "init|start from a solution"),
    "init of another problem": ({"init": (torch.zeros(3), torch.zeros(2))}, "init|start from a solution"),
}


@pytest.mark.parametrize("kernel", [Gaussian(), SquaredEuclidean()], ids=["fixed", "fitted"])
@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", EACH)
def test_a_mistake_is_named(name: str, mistake: str, kernel: Any) -> None:
    changes, message = MISTAKES[mistake]
    arguments = {"x": X, "y": Y} | changes
    with pytest.raises(ValueError, match=message):
        attrs.evolve(SOLVERS[name], kernel=kernel).solve(arguments.pop("x"), arguments.pop("y"), **arguments)


@pytest.mark.parametrize("name", EACH)
def test_masses_that_differ_are_named_or_meant(name: str) -> None:
    if name == "kl":
        assert bool(SOLVERS[name].solve(X, Y, b=4 * EVEN).converged)
        return
    priced = hasattr(SOLVERS[name], "rho")
    advice = "set rho.*to a finite price" if priced else "use `sinkhorn-unbalanced`"
    for grad in (False, True):
        with pytest.raises(ValueError, match=rf"a has mass 1 and b 4.*{advice}|no derivative"):
            SOLVERS[name].solve(X, Y, b=(4 * EVEN).requires_grad_(grad))


@pytest.mark.parametrize("name", EACH)
def test_a_signed_kernel_is_refused_with_an_alternative(name: str) -> None:
    with pytest.raises(ValueError, match=r"transport needs a positive kernel.*`gaussian`.*`positive-rff`"):
        attrs.evolve(SOLVERS[name], kernel=Energy()).solve(X, Y)


@pytest.mark.parametrize("name", WITH_EPSILON)
def test_an_epsilon_that_cannot_be_is_named_with_the_one_that_could(name: str) -> None:
    for epsilon in (0.0, -1.0):
        with pytest.raises(ValueError, match="epsilon"):
            attrs.evolve(SOLVERS[name], epsilon=epsilon)
    with pytest.raises(ValueError, match=r"1e-09 is below what float32 can carry.*smallest .* [0-9.]+e-07"):
        attrs.evolve(SOLVERS[name], epsilon=1e-9).solve(X.float(), Y.float())


@pytest.mark.parametrize("name", SOLVERS)
def test_degenerate_points_have_an_answer(name: str) -> None:
    solver = SOLVERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        equal = solver.solve(torch.ones(5, 2, dtype=torch.float64), torch.ones(4, 2, dtype=torch.float64))
        assert float(equal.cost) == 0
        torch.testing.assert_close(
            equal.plan(), torch.full((5, 4), 1 / 20).double() if name != "exact" else equal.plan()
        )
        single, one = solver.solve(X[:1], Y[:1]), solver.solve(X[:1], Y)
        cost = (X[:1] - Y).square().sum(1) / 2
        assert float(single.cost) == pytest.approx(float(cost[0] * single.plan()), rel=1e-9)
        torch.testing.assert_close(one.cost, (one.plan()[0] * cost).sum(), rtol=1e-9, atol=0)
        double = solver.solve(X[[0, 0, 1, 1, 2, 2]], Y)
    # A point that is there twice is a point of twice the weight; to a plan of few factors it is two points.
    if name != "low-rank":
        torch.testing.assert_close(double.value, solver.solve(X[:3], Y).value, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", SOLVERS)
def test_what_wants_a_gradient_gets_it_or_is_refused(name: str) -> None:
    solver, b = SOLVERS[name], EVEN.clone().requires_grad_()
    if name == "low-rank":
        with pytest.raises(ValueError, match="no derivative by the weights: detach"):
            solver.solve(X, Y, b=b)
    else:
        assert torch.autograd.grad(solver.solve(X, Y, b=b).value, b)[0].isfinite().all()
    x = X.clone().requires_grad_()
    solution = solver.solve(x, Y)
    (gradient,) = torch.autograd.grad(solution.value, x)
    step = 1e-5 * normal(5, 2, seed=3)
    ends = [float(solver.solve(X + sign * step, Y).value) for sign in (1, -1)]
    expected = float((gradient * step).sum())
    if name != "low-rank":  # whose plan is a local optimum, found anew
        assert (ends[0] - ends[1]) / 2 == pytest.approx(expected, rel=1e-4, abs=1e-10)
    assert not solution.plan().requires_grad
