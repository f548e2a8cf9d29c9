"""Potentials as they are returned: of solves cut short, and in float32, against the dense plan in float64."""

from __future__ import annotations

import warnings
from functools import partial

import attrs
import numpy as np
import pytest
import torch
from atlas_kernels_builtin.auto.auto import Auto
from atlas_kernels_builtin.exact.exact_kernels import Dense, Streaming
from atlas_kernels_builtin.grids.grid import Grid
from atlas_kernels_builtin.kernels.squared_euclidean import SquaredEuclidean
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn
from atlas_solvers_builtin.transport.divergence.divergence import SinkhornDivergence
from atlas_solvers_builtin.transport.unbalanced.unbalanced import SinkhornUnbalanced

from atlas_kernels_builtin import Gaussian

KERNEL = SquaredEuclidean(scale="mean")
RNG = np.random.default_rng(0)
X, Y = torch.tensor(RNG.normal(size=(150, 3))), torch.tensor(RNG.normal(size=(150, 3)) + 0.5)


def quietly(solve, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return solve(*args, **kwargs)


def true_error(plan, kernel, x, y, epsilon):
    """L1 error of the plan of the potentials, all in float64."""
    log_k = kernel.log_kernel(x.double(), y.double()) / epsilon
    problem = plan.problem.detach()
    exponents = log_k + (plan.f.double()[:, None] + plan.g.double()) / epsilon
    p = problem.a.double()[:, None] * problem.b.double() * exponents.exp()
    return max(float((p.sum(1) - problem.a).abs().sum()), float((p.sum(0) - problem.b).abs().sum()))


@pytest.mark.parametrize("epsilon", [1e-2, 1e-7])
@pytest.mark.parametrize("limit", [1, 5])
@pytest.mark.parametrize("method", ["newton", "sinkhorn", "log"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_a_solve_cut_short_returns_a_plan_and_a_lower_bound(epsilon, limit, method, warm):
    solver = Sinkhorn(kernel=KERNEL, epsilon=epsilon, max_iterations=limit, method=method)
    init = Sinkhorn(kernel=KERNEL, epsilon=1.0).solve(X, Y) if warm else None
    plan = quietly(solver.solve, X, Y, init=init)
    assert plan.status == ("max-iterations",)
    assert float(plan.marginal_error) <= 2.0
    assert true_error(plan, plan.kernel, X, Y, epsilon) == pytest.approx(float(plan.marginal_error), rel=1e-6)
    # The costs have mean 1, and independent coupling, of no entropy, is a plan: the dual objective is below.
    assert -0.5 < float(plan.value) < 1.0


def test_a_batch_cut_short_keeps_what_had_arrived():
    x, y = torch.stack([X[:40], X[:40]]), torch.stack([Y[:40], X[:40]])
    kernel, epsilon = SquaredEuclidean(scale=2.0), 1e-2
    plan = quietly(Sinkhorn(kernel=kernel, epsilon=epsilon, max_iterations=30).solve, x, y)
    assert (plan.marginal_error <= 2.0).all()
    for row in range(2):
        log_p = kernel.log_kernel(x[row], y[row]) / epsilon + (plan.f[row, :, None] + plan.g[row]) / epsilon
        p = log_p.exp() / 1600
        error = max(float((p.sum(d) - 1 / 40).abs().sum()) for d in (0, 1))
        assert error == pytest.approx(float(plan.marginal_error[row]), rel=1e-2)
    assert plan.status == ("max-iterations", "converged")


@pytest.mark.parametrize("rho", [1.0, float("inf")])
def test_divergences_and_unbalanced_plans_cut_short_are_sane(rho):
    divergence = SinkhornDivergence(kernel=KERNEL, epsilon=0.01, max_iterations=3, rho=rho)
    found = quietly(divergence.solve, X, Y)
    assert float(found.marginal_error) <= 2.0
    assert -0.5 < float(found.value) < 1.0
    plan = quietly(SinkhornUnbalanced(kernel=KERNEL, epsilon=0.01, max_iterations=1, rho=rho).solve, X, Y)
    assert float(plan.marginal_error) <= 2.0
    assert -0.5 < float(plan.value) < 1.0


def test_a_solve_on_a_grid_cut_short_is_sane():
    grid, (a, b) = Grid((9, 8), kernel=Gaussian(0.4)), torch.tensor(RNG.normal(size=(2, 72))).softmax(-1)
    solver = Sinkhorn(max_iterations=2)
    plan = quietly(solver.solve_operator, grid.operator(like=a.reshape(9, 8), epsilon=1e-3), a=a, b=b)
    points = grid.points()
    assert float(plan.marginal_error) <= 2.0
    assert true_error(plan, grid.kernel, points, points, 1e-3) == pytest.approx(float(plan.marginal_error), rel=1e-6)


@pytest.mark.parametrize("form", [Dense, Streaming, partial(Auto, positive=True)], ids=["dense", "streaming", "auto"])
@pytest.mark.parametrize(("method", "epsilon"), [("newton", 1e-3), ("newton", 1e-2), ("log", 1e-1)])
def test_the_error_that_is_told_in_float32_is_that_of_the_potentials(method, epsilon, form):
    x, y = X.float(), Y.float()
    kernel = SquaredEuclidean(scale=2.5)
    solver = Sinkhorn(kernel=form(kernel=kernel), epsilon=epsilon, tolerance=1e-5, method=method, max_iterations=500)
    plan = quietly(solver.solve, x, y)
    true = true_error(plan, kernel, x, y, epsilon)
    assert float(plan.marginal_error) == pytest.approx(true, rel=0.05, abs=3e-7)
    assert bool(plan.converged) == (float(plan.marginal_error) <= 1e-5)
    # What is computed when asked for is of the same plan.
    for rows in (plan.plan().sum(1), plan.matvec(torch.ones(150))):
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows, plan.marginals[0], rtol=2e-6, atol=0)


@pytest.mark.parametrize("epsilon", [1e-2, 1e-3])
def test_the_error_that_is_told_in_float32_on_a_grid_is_that_of_the_potentials(epsilon):
    grid, (a, b) = Grid((9, 8), kernel=Gaussian(0.4)), torch.tensor(RNG.normal(size=(2, 72))).softmax(-1).float()
    solver, points = Sinkhorn(tolerance=1e-5, max_iterations=500), grid.points()
    plan = quietly(solver.solve_operator, grid.operator(like=a.reshape(9, 8), epsilon=epsilon), a=a, b=b)
    true = true_error(plan, grid.kernel, points, points, epsilon)
    assert float(plan.marginal_error) == pytest.approx(true, rel=0.05, abs=3e-7)
    assert bool(plan.converged) == (float(plan.marginal_error) <= 1e-5)


def test_what_float32_cannot_carry_stalls_and_float64_is_advised():
    with pytest.warns(RuntimeWarning, match="stalled.*float64"):
        plan = Sinkhorn(kernel=KERNEL, epsilon=1e-4, tolerance=1e-6).solve(X.float(), Y.float())
    assert plan.status == ("stalled",)
    assert true_error(plan, plan.kernel, X.float(), Y.float(), 1e-4) > 1e-6


def said(solve, *args):
    with pytest.warns(RuntimeWarning) as heard:
        plan = solve(*args)
    assert len(heard) == 1
    return plan, str(heard[0].message)


@pytest.mark.parametrize("epsilon", [0.1, 240.0])
@pytest.mark.parametrize("method", ["newton", "sinkhorn", "log"])
def test_no_epsilon_is_advised_for_what_float32_does_not_sum_to(epsilon, method):
    solver = Sinkhorn(kernel=KERNEL, epsilon=epsilon, tolerance=1e-9, method=method)
    plan, message = said(solver.solve, X.float(), Y.float())
    assert plan.status == ("stalled",)
    assert plan.iterations < 1000
    assert not any(words in message for words in ("epsilon of at least", "larger epsilon"))
    assert "the tolerance is below what float32 sums to, at any epsilon: use float64, or " in message
    advised = float(message.split("a tolerance of ")[1].rstrip("."))
    assert attrs.evolve(solver, tolerance=advised).solve(X.float(), Y.float()).status == ("converged",)


def test_the_epsilon_that_is_advised_is_safe():
    solver = Sinkhorn(kernel=KERNEL, epsilon=1e-3, tolerance=2e-6)
    plan, message = said(solver.solve, X.float(), Y.float())
    advised = float(message.split("an epsilon of at least ")[1].rstrip("."))
    assert plan.status == ("stalled",)
    assert advised < 100
    assert attrs.evolve(solver, epsilon=advised).solve(X.float(), Y.float()).status == ("converged",)


@pytest.mark.parametrize("acceleration", [{"relaxation": 1.8}, {"anderson": 3}])
def test_what_keeps_an_iteration_from_converging_is_named(acceleration):
    solver = Sinkhorn(kernel=KERNEL, epsilon=0.01, method="log", max_iterations=150, **acceleration)
    short = attrs.evolve(solver, max_iterations=20) if "anderson" in acceleration else solver
    plan, message = said(short.solve, X, Y)
    assert not plan.converged
    (name,) = acceleration
    assert f"{name} = {acceleration[name]} may keep it from converging" in message
    assert "a tolerance of" not in message
