"""Exact transport against linear programming (HiGHS), sorting on the line, and its own dual certificate."""

from __future__ import annotations

import pickle
import sys

import attrs
import numpy as np
import pytest
import torch
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn
from atlas_solvers_builtin.transport.exact.exact import Exact
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

import atlas_core
from atlas_core.contracts import Coupling, Solver
from atlas_kernels_builtin import Gaussian, operator_of

SOLVER = Exact(kernel=Gaussian())


def normal(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def weights(n, seed=0):
    raw = np.random.default_rng(seed).uniform(0.2, 1, size=n)
    return torch.tensor(raw / raw.sum())


def cost_matrix(x, y):
    return ((x[..., :, None, :] - y[..., None, :, :]) ** 2).sum(-1) / 2


def least_cost(cost, a, b):
    n, m = cost.shape
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    solved = linprog(np.ravel(cost), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([a, b]))
    assert solved.success
    return solved.fun


def test_satisfies_its_contracts_and_is_found_by_name():
    solver = atlas_core.build("solver", "exact")
    assert isinstance(solver, Solver)
    assert solver == Exact(kernel=Gaussian())
    assert isinstance(solver.solve(normal(5, 2), normal(4, 2)), Coupling)
    assert pickle.loads(pickle.dumps(SOLVER)) == SOLVER  # noqa: S301 - our own bytes


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 8), m=st.integers(1, 8), uniform=st.booleans(), seed=st.integers(0, 99))
def test_no_plan_is_cheaper_and_the_potentials_prove_it(n, m, uniform, seed):
    x, y = normal(n, 2, seed=seed), normal(m, 2, seed=seed + 1)
    a, b = (torch.full((k,), 1 / k, dtype=torch.float64) if uniform else weights(k, seed + k) for k in (n, m))
    solution = SOLVER.solve(x, y, a=a, b=b)
    cost, plan = cost_matrix(x, y), solution.plan()
    assert solution.status == ("converged",)
    assert float(solution.cost) == pytest.approx(least_cost(cost, a, b), rel=1e-9, abs=1e-12)
    torch.testing.assert_close(plan.sum(1), a, rtol=0, atol=1e-14)
    torch.testing.assert_close(plan.sum(0), b, rtol=0, atol=1e-14)
    assert float((plan * cost).sum()) == pytest.approx(float(solution.cost), rel=1e-12)
    slack = cost - solution.f[:, None] - solution.g
    assert float(slack.min()) > -1e-12
    assert float((slack * plan).sum()) == pytest.approx(0, abs=1e-12)
    assert abs(float(solution.duality_gap)) < 1e-12
    assert float(solution.marginal_error) < 1e-14


def test_on_the_line_the_sorted_points_are_matched():
    x, y = normal(200, 1), normal(200, 1, seed=1)
    solution = SOLVER.solve(x, y)
    torch.testing.assert_close(solution.barycentric_map()[x[:, 0].argsort()], y.sort(dim=0).values)
    expected = (x.sort(dim=0).values - y.sort(dim=0).values).square().mean() / 2
    torch.testing.assert_close(solution.cost, expected)
    assert abs(float(solution.duality_gap)) < 1e-12


def test_an_assignment_and_the_simplex_agree():
    x, y = normal(60, 3), normal(60, 3, seed=1)
    nudged = torch.full((60,), 1 / 60, dtype=torch.float64)
    nudged[0] += 1e-9
    assigned, flow = SOLVER.solve(x, y), SOLVER.solve(x, y, a=nudged / nudged.sum())
    assert len(assigned.masses) == 60 < len(flow.masses)
    assert float(assigned.cost) == pytest.approx(float(flow.cost), rel=1e-7)


def test_products_marginals_and_the_map_are_those_of_the_matrix():
    x, y = normal(3, 9, 2), normal(3, 7, 2, seed=1)
    solution = SOLVER.solve(x, y)
    plan = solution.plan()
    u, v = normal(3, 9, 4, seed=2), normal(3, 7, 4, seed=3)
    torch.testing.assert_close(solution.matvec(v), plan @ v)
    torch.testing.assert_close(solution.matvec(v[..., 0]), (plan @ v)[..., 0])
    torch.testing.assert_close(solution.rmatvec(u), plan.mT @ u)
    torch.testing.assert_close(solution.marginals[0], plan.sum(2))
    torch.testing.assert_close(solution.marginals[1], plan.sum(1))
    torch.testing.assert_close(solution.barycentric_map(), plan @ y * 9)
    with pytest.raises(ValueError, match=r"\(3, 7\)"):
        solution.matvec(u)


def test_a_batch_holds_what_its_problems_hold_alone():
    x, y = normal(3, 6, 2), normal(6, 2, seed=1)
    a = torch.stack([weights(6, seed) for seed in range(3)])
    a[1] = 1 / 6
    together = SOLVER.solve(x, y, a=a)
    for i in range(3):
        alone = SOLVER.solve(x[i], y, a=a[i])
        torch.testing.assert_close(together.cost[i], alone.cost)
        torch.testing.assert_close(together.plan()[i], alone.plan())
    new = normal(3, 5, 2, seed=4)
    torch.testing.assert_close(together.barycentric_map(new)[2], SOLVER.solve(x[2], y, a=a[2]).barycentric_map(new[2]))


def test_points_of_weight_zero_change_nothing_and_are_sent_where_the_potential_sends_them():
    x, y = normal(6, 2), normal(6, 2, seed=1)
    solution = SOLVER.solve(x, y)
    zero = torch.tensor([[50.0, 0.0]], dtype=torch.float64)
    padded = torch.tensor([1 / 6] * 6 + [0.0], dtype=torch.float64)
    both = SOLVER.solve(torch.cat([x, zero]), torch.cat([y, -zero]), a=padded, b=padded)
    torch.testing.assert_close(both.cost, solution.cost)
    torch.testing.assert_close(both.plan()[:6, :6], solution.plan())
    assert both.f.isfinite().all()
    assert both.g.isfinite().all()
    torch.testing.assert_close(both.barycentric_map()[:6], solution.barycentric_map())
    sent = (cost_matrix(zero, y) - both.g[:6]).argmin(1)
    torch.testing.assert_close(both.barycentric_map()[6:], y[sent])
    torch.testing.assert_close(both.barycentric_map(zero), y[sent])


def test_the_gradients_are_those_of_finite_differences():
    x, y, a, b = normal(7, 2), normal(5, 2, seed=1), weights(7), weights(5, seed=1)
    attached = [value.clone().requires_grad_() for value in (x, y, a, b)]
    gradients = torch.autograd.grad(SOLVER.solve(attached[0], attached[1], a=attached[2], b=attached[3]).cost, attached)
    for k, gradient in enumerate(gradients):
        way = normal(*gradient.shape, seed=5 + k)
        way = way if k < 2 else way - way.mean()
        step, ends = 1e-6, []
        for sign in (1, -1):
            moved = [v + sign * step * way if i == k else v for i, v in enumerate((x, y, a, b))]
            ends.append(SOLVER.solve(moved[0], moved[1], a=moved[2], b=moved[3]).cost)
        assert float((gradient * way).sum()) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-6)


def test_entropic_transport_is_within_its_entropy_of_the_optimum():
    x, y = normal(8, 2), normal(8, 2, seed=1)
    best = float(SOLVER.solve(x, y).cost)
    for epsilon in (0.3, 0.02):
        near = Sinkhorn(kernel=Gaussian(), epsilon=epsilon, tolerance=1e-9, max_iterations=100_000).solve(x, y)
        assert best <= float(near.cost) <= best + epsilon * np.log(8)  # no plan's KL exceeds log n


def test_the_dtype_follows_and_a_given_operator_keeps_its_cost():
    x, y = normal(6, 2).float(), normal(5, 2, seed=1).float()
    single = SOLVER.solve(x, y, a=weights(6))
    assert {single.cost.dtype, single.f.dtype, single.masses.dtype, single.plan().dtype} == {torch.float32}
    double = SOLVER.solve(x.double(), y.double(), a=weights(6))
    torch.testing.assert_close(single.cost.double(), double.cost, rtol=1e-6, atol=0)
    scaled = SOLVER.solve_operator(operator_of(Gaussian(), x.double(), y.double(), epsilon=0.3), a=weights(6))
    torch.testing.assert_close(scaled.cost, double.cost)
    with pytest.raises(ValueError, match="pass y="):
        scaled.barycentric_map()
    operator = operator_of(Gaussian(), x, y)
    with pytest.raises(ValueError, match=r"solve\(x, y\)"):
        SOLVER.solve_operator(operator, y=y).barycentric_map(x)


def test_points_that_all_coincide_cost_nothing():
    same = torch.ones(4, 2)
    assert float(SOLVER.solve(same, same).cost) == 0


def test_running_out_of_pivots_is_a_status_and_one_warning():
    solver = attrs.evolve(SOLVER, max_iterations=3)
    with pytest.warns(RuntimeWarning, match=r"1 of 1 problem.*3 pivots.*raise max_iterations") as caught:
        solution = solver.solve(normal(30, 2), normal(20, 2, seed=1))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert solution.status == ("max-iterations",)
    assert not bool(solution.converged)


def test_without_pot_an_assignment_works_and_the_rest_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    assert bool(SOLVER.solve(normal(4, 2), normal(4, 2)).converged)
    with pytest.raises(ImportError, match=r"pip install POT"):
        SOLVER.solve(normal(5, 2), normal(4, 2))


@attrs.frozen
class Window:
    """A cost that is infinite beyond a reach of 1."""

    has_log = True
    item_ndim = 1

    def log_kernel(self, x, y):
        return torch.where(torch.cdist(x, y) < 1, 0.0, -torch.inf)


@attrs.frozen
class Signed:
    has_log = False
    item_ndim = 1

    def block(self, x, y):
        return -torch.cdist(x, y)


def test_infinite_costs_are_avoided_or_named():
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[2.5], [0.5]])
    solver = Exact(kernel=Window())
    assert solver.solve(x, y).columns.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"no assignment has a finite cost.*widen the kernel"):
        solver.solve(x, y + 5)
    with pytest.raises(ValueError, match=r"infinite cost.*widen the kernel"):
        solver.solve(x, y, a=torch.tensor([0.3, 0.7]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": normal(5, 2) * torch.nan}, r"x\[0, 0\] is nan"),
        ({"x": normal(0, 2)}, "non-empty"),
        ({"x": normal(5, 3)}, "different shapes"),
        ({"x": torch.ones(5, 2, dtype=torch.int64)}, "floating point"),
        ({"x": normal(5, 2).float()}, "convert one of them"),
        ({"a": torch.tensor([0.5, 0.7, -0.2, 0.0, 0.0])}, "a holds a weight that is negative"),
        ({"b": torch.ones(4)}, "a has mass 1 and b 4"),
        ({"a": torch.zeros(5)}, "a is all zero"),
        ({"init": "warm"}, "leave init out"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {"x": normal(5, 2), "y": normal(4, 2, seed=1)} | changes
    with pytest.raises(ValueError, match=message):
        SOLVER.solve(arguments.pop("x"), arguments.pop("y"), **arguments)


def test_a_matrix_beyond_memory_is_refused_with_alternatives():
    x = torch.zeros(10_000_000, 1)
    with pytest.raises(ValueError, match=r"10000000 × 10000000 points need .* GB.*`sinkhorn`, which streams"):
        SOLVER.solve(x, x)


def test_a_signed_kernel_is_refused_with_an_alternative():
    with pytest.raises(ValueError, match=r"positive kernel.*`gaussian`"):
        Exact(kernel=Signed()).solve(normal(5, 2), normal(4, 2))
