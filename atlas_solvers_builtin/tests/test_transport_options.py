"""Every option of `sinkhorn` has an effect, and none changes what is found."""

from __future__ import annotations

import runpy
import sys
import warnings

import attrs
import numpy as np
import pytest
import torch
from atlas_kernels_builtin.exact import exact_operator
from atlas_kernels_builtin.exact.exact_kernels import Streaming
from atlas_kernels_builtin.kernels.squared_euclidean import SquaredEuclidean
from atlas_solvers_builtin.transport.balanced import rounds
from atlas_solvers_builtin.transport.balanced.absorbed import around
from atlas_solvers_builtin.transport.balanced.newton import schur
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn
from atlas_solvers_builtin.transport.balanced.sweeps import Local, sweep
from atlas_solvers_builtin.transport.problem import problem_of
from scipy.special import logsumexp

from atlas_core import build
from atlas_kernels_builtin import Gaussian, operator_of

SOLVER = Sinkhorn(kernel=Gaussian(), epsilon=0.03, tolerance=1e-9)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def weights(n, seed=0):
    raw = np.random.default_rng(seed).uniform(0.2, 1, size=n)
    return torch.tensor(raw / raw.sum())


X, Y, A, B = normal(70, 2), normal(60, 2, seed=1), weights(70), weights(60, seed=1)


@pytest.fixture(scope="module")
def reference():
    """Potentials of the dense iteration in numpy, with ⟨a, f⟩ = ⟨b, g⟩, and the value."""
    cost = ((X[:, None] - Y[None]) ** 2).sum(-1).numpy() / 2
    a, b, epsilon = A.numpy(), B.numpy(), SOLVER.epsilon
    f, g = np.zeros_like(a), np.zeros_like(b)
    for _ in range(50_000):
        before = f
        f = -epsilon * logsumexp((g - cost) / epsilon, b=b, axis=1)
        g = -epsilon * logsumexp((f[:, None] - cost) / epsilon, b=a[:, None], axis=0)
        if np.abs(f - before).max() < 1e-14:
            break
    shift = (a @ f - b @ g) / 2
    return f - shift, g + shift, float(a @ f + b @ g)


METHODS = [
    {"method": "newton"},
    {"method": "newton", "scaling": 1.0},
    {"method": "newton", "storage": "float64"},
    {"method": "newton", "check_every": 7},
    {"method": "sinkhorn"},
    {"method": "sinkhorn", "storage": "float64"},
    {"method": "log"},
    {"method": "log", "anderson": 5},
    {"method": "log", "relaxation": 1.6},
    {"method": "log", "check_every": 7},
]


@pytest.mark.parametrize("options", METHODS, ids=str)
def test_value_and_potentials_are_those_of_the_dense_reference(options, reference):
    solution = attrs.evolve(SOLVER, **options).solve(X, Y, a=A, b=B)
    f, g, value = reference
    assert solution.status == ("converged",)
    assert float(solution.marginal_error) <= 1e-9
    assert float(solution.value) == pytest.approx(value, rel=1e-11)
    slack = 1e-7 if options["method"] == "newton" else 1e-6  # sweeps stop far from the end of a long way
    np.testing.assert_allclose(solution.f, f, rtol=0, atol=slack * np.abs(f).max())
    np.testing.assert_allclose(solution.g, g, rtol=0, atol=slack * np.abs(g).max())
    assert abs(float((A * solution.f).sum() - (B * solution.g).sum())) < 1e-12


def products(**options):
    return attrs.evolve(SOLVER, **options).solve(X, Y, a=A, b=B).matvecs


def test_each_option_spares_what_it_is_there_to_spare():
    newton, sweeps, log = (products(method=method) for method in ("newton", "sinkhorn", "log"))
    assert newton < 0.3 * sweeps
    assert products(method="log", anderson=5) < 0.3 * log
    assert products(method="log", relaxation=1.6) < 0.6 * log
    assert products(epsilon=0.01) < 0.5 * products(epsilon=0.01, scaling=1.0)
    assert log < products(method="log", check_every=50) <= log + 100  # the price of a look every 50
    loose = attrs.evolve(SOLVER, tolerance=1e-2).solve(X, Y)
    assert 1e-9 < float(loose.marginal_error) <= 1e-2


def test_the_storage_is_what_the_option_says(monkeypatch):
    seen = []

    def spy(problem, f, g, **options):
        seen.append(options["storage"])
        return around(problem, f, g, **options)

    monkeypatch.setattr(rounds, "around", spy)
    for storage, expected in (("float32", torch.float32), ("float64", torch.float64), ("auto", torch.float32)):
        seen.clear()
        attrs.evolve(SOLVER, storage=storage, tolerance=1e-6).solve(X, Y)
        assert set(seen) == {expected}


def test_an_option_without_effect_is_refused():
    for option in ({"anderson": 5}, {"relaxation": 1.5}):
        with pytest.raises(ValueError, match=rf"{next(iter(option))} has no effect with method = 'newton'"):
            Sinkhorn(kernel=Gaussian(), **option)
    with pytest.raises(ValueError, match="method"):
        Sinkhorn(kernel=Gaussian(), method="fast")


@pytest.mark.parametrize("dimension", [2, 16])
def test_small_epsilon_is_solved_where_sweeps_would_take_thousands(dimension):
    x, y = normal(300, dimension), normal(300, dimension, seed=1) * 0.7 + 0.3
    solver = Sinkhorn(kernel=SquaredEuclidean(scale="mean"), epsilon=1e-3, tolerance=1e-6)
    solution = solver.solve(x, y)
    assert solution.status == ("converged",)
    plan = solution.plan()
    assert float((plan.sum(1) - 1 / 300).abs().sum()) <= 1e-6
    assert float((plan.sum(0) - 1 / 300).abs().sum()) <= 1e-6
    assert solution.iterations < 1500


def test_float32_points_reach_what_float32_can():
    x, y = normal(300, 8, dtype=torch.float32), normal(280, 8, seed=1, dtype=torch.float32)
    solution = Sinkhorn(kernel=SquaredEuclidean(scale="mean"), epsilon=0.01, tolerance=1e-4).solve(x, y)
    assert solution.status == ("converged",)
    assert solution.f.dtype == solution.value.dtype == torch.float32
    exact = Sinkhorn(kernel=SquaredEuclidean(scale="mean"), epsilon=0.01, tolerance=1e-9).solve(x.double(), y.double())
    assert float(solution.value) == pytest.approx(float(exact.value), rel=1e-5)


def test_mass_scales_the_plan_and_leaves_the_work():
    one, five = SOLVER.solve(X, Y, a=A, b=B), SOLVER.solve(X, Y, a=5 * A, b=5 * B)
    torch.testing.assert_close(five.plan(), 5 * one.plan(), rtol=1e-6, atol=1e-12)


def test_the_errors_and_the_gap_are_those_of_the_plan():
    solution = attrs.evolve(SOLVER, tolerance=1e-3).solve(X, Y, a=A, b=B)
    plan = solution.plan()
    rows, columns = solution.marginal_errors
    torch.testing.assert_close(rows, (plan.sum(1) - A).abs().sum(), rtol=1e-4, atol=1e-13)
    torch.testing.assert_close(columns, (plan.sum(0) - B).abs().sum(), rtol=1e-4, atol=1e-13)
    cost = (X[:, None] - Y).square().sum(-1) / 2
    product = A[:, None] * B
    divergence = (plan * (plan / product).log()).sum() - plan.sum() + 1
    primal = (plan * cost).sum() + SOLVER.epsilon * divergence
    torch.testing.assert_close(solution.gap, primal - solution.value, rtol=1e-6, atol=1e-11)
    assert solution.peak_bytes >= 0


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # it is run a second time, on purpose
def test_where_the_system_does_not_tell_there_is_no_number_of_bytes(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows, which has no such module
    again = runpy.run_module("atlas_solvers_builtin.transport.outcome")
    assert again["Meter"](torch.device("cpu")).peak_bytes is None
    assert attrs.evolve(SOLVER, tolerance=1e-3).solve(X, Y).peak_bytes is None


@pytest.mark.parametrize("name", ["sinkhorn", "sinkhorn-unbalanced", "low-rank", "barycenter"])
def test_a_kernel_that_does_not_fit_is_said_to_be_streamed_once(name, monkeypatch):
    monkeypatch.setattr(exact_operator, "SHARE_OF_MEMORY", 0.0)
    y = Y[None] if name == "barycenter" else Y
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        # A kernel whose costs have no factors, so that low-rank streams them, too.
        build("solver", name, kernel={"use": "laplacian"}, tolerance=1e-2).solve(X, y)
    assert sum("streamed, not stored" in str(each.message) for each in said) == 1


def local_around(f, g, epsilon=0.1):
    problem = problem_of(operator_of(Gaussian(), X, Y, epsilon=epsilon), A, B)
    plan = around(problem, f, g, storage=torch.float64, drop=0.0)
    return Local(plan, problem, torch.zeros((), dtype=torch.float64))


def test_the_schur_complement_is_the_hessian_of_the_semi_dual():
    """S = ε ∂²/∂g² of −(⟨a, f(g)⟩ + ⟨b, g⟩), by autograd through the dense c-transform."""
    epsilon, g = 0.1, 0.1 * normal(60, seed=4)
    cost = (X[:, None] - Y).square().sum(-1) / 2

    def semi_dual(g):
        return (A * (-epsilon) * ((g - cost) / epsilon + B.log()).logsumexp(1)).sum() + (B * g).sum()

    hessian = torch.autograd.functional.hessian(semi_dual, g)
    f = -epsilon * ((g - cost) / epsilon + B.log()).logsumexp(1)
    local = local_around(f, g, epsilon)
    system = schur(local, local.start())
    matrix = torch.stack([system @ column for column in torch.eye(60, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(matrix, -epsilon * hessian, rtol=0, atol=1e-12)
    torch.testing.assert_close(1 / system.preconditioner, matrix.diagonal(), rtol=1e-9, atol=0)


def test_sweeps_compile_as_one_graph_and_stop_on_the_device():
    local = local_around(torch.zeros_like(A), torch.zeros_like(B))
    at, target = local.start(), torch.tensor(0.05, dtype=torch.float64)
    going = torch.ones((), dtype=torch.bool)
    entries = local.plan.operator.dense()

    @attrs.frozen
    class Matrix:
        rows = local.plan.rows
        columns = local.plan.columns

        def matvec(self, v):
            return local.plan.unit * (entries @ v)

        def rmatvec(self, u):
            return local.plan.unit * (entries.T @ u)

    plain = attrs.evolve(local, plan=Matrix())

    def block(u, v, columns, error):
        made_at, made = sweep(plain, at._replace(u=u, v=v, columns=columns, error=error), going, target, count=40)
        return made_at.u, made_at.v, made_at.error, made

    compiled = torch.compile(block, fullgraph=True, backend="eager")
    u, v, error, made = compiled(at.u, at.v, at.columns, at.error)
    expected, count = sweep(local, at, going, target, count=40)
    torch.testing.assert_close((u, v, error), (expected.u, expected.v, expected.error))
    assert 1 < int(made) == int(count) < 40
    assert float(error) <= 0.05


def test_sweeps_on_rounded_entries_go_on_around_new_potentials_where_rounding_is_all_that_is_left():
    """Streamed entries are rounded anew at each product: without that, sweeps go on below what they can tell."""
    x, y = normal(120, 2), 0.7 * normal(110, 2, seed=1) + 0.4
    stored, streamed = (
        Sinkhorn(kernel=kernel, epsilon=0.02, tolerance=1e-8, method="sinkhorn", check_every=10).solve(x, y)
        for kernel in (SquaredEuclidean(), Streaming(kernel=SquaredEuclidean()))
    )
    assert stored.status == streamed.status == ("converged",)
    assert streamed.iterations < 1.5 * stored.iterations
