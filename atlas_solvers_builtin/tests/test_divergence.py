"""The Sinkhorn divergence against its definition by three solves, Gaussians in closed form, and finite differences."""

from __future__ import annotations

import math
import pickle

import attrs
import numpy as np
import pytest
import torch
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn
from atlas_solvers_builtin.transport.divergence.divergence import SinkhornDivergence
from atlas_solvers_builtin.transport.unbalanced.unbalanced import SinkhornUnbalanced
from hypothesis import given, settings
from hypothesis import strategies as st

import atlas_core
from atlas_core.contracts import Coupling, Solver
from atlas_kernels_builtin import Gaussian, Laplacian, operator_of

SOLVER = SinkhornDivergence(kernel=Gaussian(), epsilon=0.2, tolerance=1e-11)
UNBALANCED = attrs.evolve(SOLVER, rho=0.8)


def normal(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def weights(n, seed=0, mass=1.0):
    raw = np.random.default_rng(seed).uniform(0.2, 1, size=n)
    return torch.tensor(mass * raw / raw.sum())


X, Y, A, B = normal(20, 2), normal(15, 2, seed=1) + 0.5, weights(20), weights(15, seed=1)


def test_satisfies_its_contracts_and_is_found_by_name():
    solver = atlas_core.build("solver", "sinkhorn-divergence", epsilon=0.2)
    assert isinstance(solver, Solver)
    assert solver == SinkhornDivergence(kernel=Gaussian(), epsilon=0.2)
    assert isinstance(solver.solve(normal(5, 2), normal(4, 2, seed=1)), Coupling)
    assert pickle.loads(pickle.dumps(SOLVER)) == SOLVER  # noqa: S301 - our own bytes


@pytest.mark.parametrize("kernel", [Gaussian(0.7), Laplacian(2.0)])
def test_is_what_three_solves_say(kernel):
    solver = Sinkhorn(kernel=kernel, epsilon=0.2, tolerance=1e-11)
    across, first, second = solver.solve(X, Y, a=A, b=B), solver.solve(X, X, a=A, b=A), solver.solve(Y, Y, a=B, b=B)
    solution = attrs.evolve(SOLVER, kernel=kernel).solve(X, Y, a=A, b=B)
    assert solution.status == ("converged",)
    expected = across.value - first.value / 2 - second.value / 2
    torch.testing.assert_close(solution.value, expected, rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(solution.plan(), across.plan(), rtol=0, atol=1e-10)
    torch.testing.assert_close(solution.matvec(Y), across.matvec(Y), rtol=0, atol=1e-10)
    # f within is half of f + g of a solve, whatever the constant between the two.
    torch.testing.assert_close(solution.within[0].f, (first.f + first.g) / 2, rtol=0, atol=1e-8)


@pytest.mark.parametrize("marginals", ["kl", "tv"])
def test_the_unbalanced_one_is_what_three_solves_and_the_masses_say(marginals):
    solver = SinkhornUnbalanced(kernel=Gaussian(), epsilon=0.6, rho=0.8, marginals=marginals, tolerance=1e-11)
    b = 1.5 * B
    across, first, second = solver.solve(X, Y, a=A, b=b), solver.solve(X, X, a=A, b=A), solver.solve(Y, Y, a=b, b=b)
    solution = attrs.evolve(UNBALANCED, epsilon=0.6, marginals=marginals).solve(X, Y, a=A, b=b)
    expected = across.value - first.value / 2 - second.value / 2 + 0.6 * 0.5**2 / 2
    torch.testing.assert_close(solution.value, expected, rtol=1e-8, atol=1e-10)
    assert float(expected) > 0.01  # the self terms do not cancel the rest


@settings(max_examples=6, deadline=None)
@given(n=st.integers(1, 8), m=st.integers(1, 8), epsilon=st.floats(0.1, 5), rho=st.sampled_from([math.inf, 0.5]))
def test_is_zero_for_equal_sets_and_positive_otherwise(n, m, epsilon, rho):
    x, y, a, b = normal(n, 2), normal(m, 2, seed=1), weights(n), weights(m, seed=1)
    solver = attrs.evolve(SOLVER, epsilon=epsilon, rho=rho)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(n))
    assert float(solver.solve(x, x[order], a=a, b=a[order]).value) == pytest.approx(0, abs=1e-10)
    there, back = solver.solve(x, y, a=a, b=b).value, solver.solve(y, x, a=b, b=a).value
    assert float(there) > 1e-4
    torch.testing.assert_close(there, back, rtol=1e-7, atol=1e-10)


def test_a_shift_costs_half_its_squared_length_at_any_epsilon():
    # For the quadratic cost OT(x, x + h) = OT(x, x) + |h|² / 2 exactly: ⟨P, x · y⟩ shifts by a constant.
    way = torch.tensor([0.3, -1.0], dtype=torch.float64)
    for epsilon in (0.05, 1.0, 20.0):
        value = attrs.evolve(SOLVER, epsilon=epsilon).solve(X, X + way, a=A, b=A).value
        assert float(value) == pytest.approx(1.09 / 2, rel=1e-9)


def gaussian_value(mean, variance, other_mean, other_variance, epsilon):
    """Entropic transport of Gaussians on the line at |x − y|² / 2 (Janati et al. 2020, theorem 1, halved: σ² = ε)."""
    d = math.sqrt(4 * variance * other_variance + epsilon**2)
    spread = variance + other_variance - d + epsilon * (1 - math.log(2 * epsilon)) + epsilon * math.log(d + epsilon)
    return ((mean - other_mean) ** 2 + spread) / 2


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_between_gaussians_it_is_the_closed_form(epsilon):
    """The densities are on grids, so that nothing is random: the rest is the quadrature's error, below 1e-9."""
    first, second = (0.3, 0.8), (-0.6, 0.3)
    points = [torch.linspace(m - 7 * v**0.5, m + 7 * v**0.5, 160, dtype=torch.float64) for m, v in (first, second)]
    a, b = (torch.exp(-((p - m) ** 2) / (2 * v)) for p, (m, v) in zip(points, (first, second), strict=True))
    solver = attrs.evolve(SOLVER, epsilon=epsilon)
    solution = solver.solve(points[0][:, None], points[1][:, None], a=a / a.sum(), b=b / b.sum())
    within = [gaussian_value(*side, *side, epsilon) / 2 for side in (first, second)]
    assert float(solution.value) == pytest.approx(gaussian_value(*first, *second, epsilon) - sum(within), rel=1e-7)


@pytest.mark.parametrize("solver", [SOLVER, UNBALANCED, attrs.evolve(UNBALANCED, marginals="tv")])
def test_the_gradient_is_that_of_finite_differences(solver):
    start = [X[:8], Y[:7], A[:8] / A[:8].sum(), B[:7] / B[:7].sum()]
    attached = [value.clone().requires_grad_() for value in start]

    def value_of(x, y, a, b):
        return solver.solve(x, y, a=a, b=b).value

    gradients = torch.autograd.grad(value_of(*attached), attached)
    for k, gradient in enumerate(gradients):
        way, step = normal(*gradient.shape, seed=k), 1e-5
        way = way if k < 2 else way - way.mean()  # mass is kept
        moved = [[v + sign * step * way if i == k else v for i, v in enumerate(start)] for sign in (1, -1)]
        slope = float(value_of(*moved[0]) - value_of(*moved[1])) / (2 * step)
        assert float((gradient * way).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-9)
    if solver is SOLVER:
        for gradient, potential in ((gradients[2], solver.solve(*start[:2], a=start[2], b=start[3]).f),):
            torch.testing.assert_close(gradient - gradient.mean(), potential - potential.mean(), rtol=0, atol=1e-9)


def test_the_gradient_vanishes_where_the_sets_are_equal():
    x = X.clone().requires_grad_()
    SOLVER.solve(x, X, a=A, b=A).value.backward()
    assert float(x.grad.abs().max()) < 1e-9


def test_each_problem_of_a_batch_is_solved_as_if_it_were_alone():
    x, y, b = normal(3, 9, 2), normal(7, 2, seed=1), torch.stack([weights(7, seed) for seed in range(3)])
    for solver in (attrs.evolve(SOLVER, epsilon=None), attrs.evolve(UNBALANCED, epsilon=None)):
        together = solver.solve(x, y, b=b)
        assert together.status == ("converged",) * 3
        for i in range(3):
            alone = solver.solve(x[i], y, b=b[i])
            torch.testing.assert_close(together.value[i], alone.value, rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(together.barycentric_map(x)[i], alone.barycentric_map(), rtol=0, atol=1e-9)


def test_symmetric_updates_need_few_iterations_at_any_epsilon():
    """The error halves with each, whatever ε, once the potential is of the right size."""
    for epsilon in (0.5, 0.05, 0.005):
        solution = attrs.evolve(SOLVER, epsilon=epsilon, tolerance=1e-6).solve(X, X, a=A, b=A)
        assert max(side.iterations for side in solution.within) < 60


def test_points_of_weight_zero_change_nothing():
    zero, far = torch.zeros(1, dtype=torch.float64), torch.tensor([[50.0, 0.0]], dtype=torch.float64)
    a = torch.cat([A, zero]).requires_grad_()
    for solver in (SOLVER, UNBALANCED):
        solution = solver.solve(torch.cat([X, far]), Y, a=a, b=B)
        torch.testing.assert_close(solution.value, solver.solve(X, Y, a=A, b=B).value, rtol=1e-9, atol=0)
        assert torch.autograd.grad(solution.value, a)[0].isfinite().all()


def test_the_dtype_follows_and_a_solution_is_where_the_next_one_starts():
    single = attrs.evolve(SOLVER, tolerance=1e-4).solve(X.float(), Y.float())
    assert {single.value.dtype, single.f.dtype, single.g.dtype} == {torch.float32}
    cold = SOLVER.solve(X, Y, a=A, b=B)
    assert float(single.value) == pytest.approx(float(SOLVER.solve(X, Y).value), rel=1e-3)
    assert SOLVER.solve(X, Y, a=A, b=B, init=cold).across.iterations < cold.across.iterations


def test_running_out_of_iterations_is_a_status_and_said():
    with pytest.warns(RuntimeWarning, match=r"sinkhorn-divergence: .*set to itself.*raise tolerance") as caught:
        solution = attrs.evolve(SOLVER, epsilon=0.01, max_iterations=2).solve(X, Y)
    (warning,) = caught  # of all three, and where it was called
    assert "sinkhorn: 1 of 1 problem(s) not solved" in str(warning.message)
    assert warning.filename == __file__
    assert solution.status == ("max-iterations",)
    assert not bool(solution.converged)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"x\[0, 0\] is nan"):
        SOLVER.solve(X * torch.nan, Y)
    with pytest.raises(ValueError, match="different shapes"):
        SOLVER.solve(normal(5, 3), Y)
    with pytest.raises(ValueError, match=r"a has mass 1 and b 1\.5"):
        SOLVER.solve(X, Y, b=1.5 * B)
    with pytest.raises(ValueError, match=r"use solve\(x, y\)"):
        SOLVER.solve_operator(operator_of(Gaussian(), X, Y))
    for field in ("epsilon", "rho", "tolerance", "max_iterations"):
        with pytest.raises(ValueError, match=field):
            attrs.evolve(SOLVER, **{field: 0})


def test_the_map_across_has_the_graph_of_both_sets():
    found, expected = [], []
    for solver, gradients in ((SOLVER, found), (Sinkhorn(kernel=Gaussian(), epsilon=0.2, tolerance=1e-11), expected)):
        x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
        plan = getattr(solver.solve(x, y), "across", None) or solver.solve(x, y)
        gradients += torch.autograd.grad(plan.barycentric_map(differentiable=True).square().sum(), (x, y))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
