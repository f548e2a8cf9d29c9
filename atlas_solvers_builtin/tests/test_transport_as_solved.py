"""A solution reads its points when it is asked: once they were changed in place it says so, rather than answer."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from atlas_kernels_builtin.grids.grid import Grid
from atlas_kernels_builtin.operators import operator_of
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn
from atlas_solvers_builtin.transport.barycenters.barycenter import Barycenter
from atlas_solvers_builtin.transport.divergence.divergence import SinkhornDivergence
from atlas_solvers_builtin.transport.exact.exact import Exact
from atlas_solvers_builtin.transport.grids.grid_solve import SinkhornGrid
from atlas_solvers_builtin.transport.low_rank.low_rank import LowRank
from atlas_solvers_builtin.transport.unbalanced.unbalanced import SinkhornUnbalanced

from atlas_kernels_builtin import Gaussian

SOLVERS = (
    Sinkhorn(kernel=Gaussian()),
    Sinkhorn(kernel=Gaussian(), method="log"),
    SinkhornUnbalanced(kernel=Gaussian()),
    SinkhornDivergence(kernel=Gaussian()),
    Exact(kernel=Gaussian()),
    LowRank(kernel=Gaussian(), rank=3),
)
SAID = r"changed in place after the solve.*solve again or pass x\.clone\(\)"


def cloud(size, seed):
    return torch.randn(size, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def asked(solution):
    """What is computed when it is asked for, and needs the points."""
    ones = torch.ones(9, dtype=torch.float64)
    calls = {"barycentric_map": solution.barycentric_map, "new points": lambda: solution.barycentric_map(cloud(3, 5))}
    if hasattr(solution, "potentials"):
        calls["potentials"] = solution.potentials
    if not hasattr(solution, "masses"):  # a sparse plan is its entries
        calls |= {"matvec": lambda: solution.matvec(ones[:8]), "rmatvec": lambda: solution.rmatvec(ones)}
        calls["plan"] = solution.plan
    if hasattr(solution, "gap") or hasattr(solution, "across"):
        calls["cost"] = lambda: solution.cost
    return calls


@pytest.mark.parametrize(
    "solver", SOLVERS, ids=lambda solver: f"{type(solver).__name__}-{getattr(solver, 'method', '')}"
)
@pytest.mark.parametrize("changed", ["x", "y", "a", "b"])
def test_what_is_asked_after_a_change_in_place_is_refused(solver, changed):
    given = {
        "x": cloud(9, 0),
        "y": cloud(8, 1),
        "a": torch.full((9,), 1 / 9, dtype=torch.float64),
        "b": torch.ones(8).double() / 8,
    }
    solution = solver.solve(given["x"], given["y"], a=given["a"], b=given["b"])
    for call in asked(solution).values():
        call()  # before the change it answers
    solution = solver.solve(given["x"], given["y"], a=given["a"], b=given["b"])
    given[changed].mul_(2)
    for call in asked(solution).values():
        with pytest.raises(ValueError, match=SAID):
            call()


def test_an_optimizer_step_is_a_change_and_what_was_asked_before_stays():
    x, y = cloud(9, 0).requires_grad_(), cloud(8, 1)
    solution, seen = Sinkhorn(kernel=Gaussian()).solve(x, y), Sinkhorn(kernel=Gaussian()).solve(x, y)
    cost = seen.cost.clone()
    solution.value.backward()
    torch.optim.SGD([x], lr=0.1).step()
    with pytest.raises(ValueError, match=SAID):
        solution.cost  # noqa: B018
    torch.testing.assert_close(seen.cost, cost, rtol=0, atol=0)
    clone = Sinkhorn(kernel=Gaussian()).solve(x.detach().clone(), y)
    x.data.zero_()
    clone.plan()


@pytest.mark.parametrize(
    "solver", SOLVERS, ids=lambda solver: f"{type(solver).__name__}-{getattr(solver, 'method', '')}"
)
def test_a_value_is_differentiated_where_it_was_solved(solver):
    x, y = cloud(9, 0).requires_grad_(), cloud(8, 1)
    value = solver.solve(x, y).value
    with torch.no_grad():
        x.mul_(2)
    with pytest.raises(ValueError, match=SAID):
        value.backward()
    assert x.grad is None
    solver.solve(x, y).value.backward()
    assert bool(x.grad.isfinite().all())


def test_barycenters_grids_and_given_operators():
    x, y = cloud(9, 0), torch.stack([cloud(8, 1), cloud(8, 2)])
    for support in ("fixed", "free"):
        plan = Barycenter(kernel=Gaussian(), support=support, tolerance=1e-3).solve(x, y)
        plan.plan()
        y.add_(1)
        with pytest.raises(ValueError, match=SAID):
            plan.plan()
    grid = Grid((4, 4), kernel=Gaussian())
    a, b = (torch.rand(4, 4, generator=torch.Generator().manual_seed(seed)).double() + 0.1 for seed in (3, 4))
    a, b = a / a.sum(), b / b.sum()
    plan = SinkhornGrid(kernel=grid).solve_images(a, b)
    plan.plan()
    a.mul_(2)
    with pytest.raises(ValueError, match=SAID):
        plan.plan()
    targets = cloud(8, 1)
    plan = Sinkhorn().solve_operator(operator_of(Gaussian(), x, targets.clone(), epsilon=1.0), y=targets)
    targets.mul_(2)
    with pytest.raises(ValueError, match=SAID):
        plan.barycentric_map()


def test_copies_answer_and_inference_mode_is_no_obstacle():
    x, y = cloud(9, 0).mul_(1.0), cloud(8, 1)
    solution = Sinkhorn(kernel=Gaussian()).solve(x, y)
    copies = copy.deepcopy(solution), pickle.loads(pickle.dumps(solution))  # noqa: S301
    x.mul_(2)
    for each in copies:
        torch.testing.assert_close(each.plan().sum(), torch.ones(()).double(), rtol=1e-3, atol=0)
    with torch.inference_mode():
        Sinkhorn(kernel=Gaussian()).solve(cloud(9, 0), y).plan()
