"""Low-rank transport against exact transport, POT's low-rank solver, and what is known of rank 1 and of clusters."""

from __future__ import annotations

import pickle

import attrs
import numpy as np
import ot
import pytest
import torch
from atlas_solvers_builtin.transport.exact.exact import Exact
from atlas_solvers_builtin.transport.low_rank.cost_products import StreamedCosts, cost_products
from atlas_solvers_builtin.transport.low_rank.low_rank import LowRank

import atlas_core
from atlas_core.contracts import Coupling, Solver
from atlas_kernels_builtin import Gaussian, Laplacian, operator_of

SOLVER = LowRank(kernel=Gaussian(), rank=5)
EXACT = Exact(kernel=Gaussian())


def normal(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def weights(n, seed=0):
    raw = np.random.default_rng(seed).uniform(0.2, 1, size=n)
    return torch.tensor(raw / raw.sum())


def cost_matrix(x, y):
    return ((x[:, None] - y[None]) ** 2).sum(-1) / 2


X, Y, A, B = normal(40, 2), normal(30, 2, seed=1) + 1, weights(40), weights(30, seed=1)


def test_satisfies_its_contracts_and_is_found_by_name():
    solver = atlas_core.build("solver", "low-rank", rank=3)
    assert isinstance(solver, Solver)
    assert solver == LowRank(kernel=Gaussian(), rank=3)
    assert isinstance(solver.solve(normal(5, 2), normal(4, 2, seed=1)), Coupling)
    assert pickle.loads(pickle.dumps(SOLVER)) == SOLVER  # noqa: S301 - our own bytes


def test_the_plan_has_its_marginals_its_rank_and_its_cost():
    solution = SOLVER.solve(X, Y, a=A, b=B)
    plan = solution.plan()
    assert solution.status == ("converged",)
    assert float(plan.min()) >= 0
    torch.testing.assert_close(plan.sum(1), A, rtol=0, atol=1e-13)
    torch.testing.assert_close(plan.sum(0), B, rtol=0, atol=1e-13)
    assert float(solution.marginal_error) < 1e-12
    assert int(torch.linalg.matrix_rank(plan)) == 5
    torch.testing.assert_close(solution.cost, (plan * cost_matrix(X, Y)).sum())
    torch.testing.assert_close(solution.q.sum(0), solution.w, rtol=0, atol=1e-13)
    torch.testing.assert_close(solution.r.sum(0), solution.w, rtol=0, atol=1e-13)
    u, v = normal(40, 3, seed=2), normal(30, 3, seed=3)
    torch.testing.assert_close(solution.matvec(v), plan @ v)
    torch.testing.assert_close(solution.matvec(v[:, 0]), plan @ v[:, 0])
    torch.testing.assert_close(solution.rmatvec(u), plan.T @ u)
    torch.testing.assert_close(solution.marginals[0], A)
    torch.testing.assert_close(solution.barycentric_map(), plan @ Y / A[:, None])


def test_rank_one_knows_nothing_of_the_cost():
    solution = attrs.evolve(SOLVER, rank=1).solve(X, Y, a=A, b=B)
    torch.testing.assert_close(solution.plan(), torch.outer(A, B))


def test_more_rank_costs_less_and_full_rank_nearly_the_least():
    x, y = normal(12, 2), normal(12, 2, seed=1)
    least = float(EXACT.solve(x, y).cost)
    costs = [float(attrs.evolve(SOLVER, rank=rank).solve(x, y).cost) for rank in (1, 3, 12, 50)]
    assert costs[0] > costs[1] > costs[2] == costs[3]
    assert least <= costs[2] < 1.05 * least


def test_clusters_are_matched_exactly():
    """Copies of few points, far apart: the best plan has their number as its rank."""
    centres = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]], dtype=torch.float64)
    x, y = centres.repeat_interleave(10, 0), (centres + torch.tensor([1.0, 0.5])).repeat_interleave(6, 0)
    solution = attrs.evolve(SOLVER, rank=6, tolerance=1e-7).solve(x, y)
    assert float(solution.cost) == pytest.approx(float(EXACT.solve(x, y).cost), rel=1e-3)
    assert float(solution.cost) == pytest.approx(1.25 / 2, rel=1e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_is_no_worse_than_pot(seed):
    x, y = normal(60, 3, seed=seed), normal(50, 3, seed=seed + 10) + 0.5
    q, r, w = ot.lowrank_sinkhorn(x.numpy(), y.numpy(), rank=6, numItermax=500, stopThr=1e-9, warn=False)
    theirs = float((q / w @ r.T * cost_matrix(x, y).numpy()).sum())
    ours = float(attrs.evolve(SOLVER, rank=6).solve(x, y).cost)
    assert float(EXACT.solve(x, y).cost) < ours < 1.02 * theirs


def test_costs_in_linear_time_are_those_of_the_kernel():
    x, y = normal(3, 9, 2), normal(7, 2, seed=1) + 100  # far from 0, where |x|² + |y|² − 2xy would cancel
    x = x + 100
    operator = operator_of(Gaussian(0.7), x, y)
    fast, slow = cost_products(Gaussian(0.7), x, y, operator), StreamedCosts(operator)
    u, v = normal(3, 9, 4, seed=2), normal(3, 7, 4, seed=3)
    costs = ((x[:, :, None] - y) ** 2).sum(-1) / (2 * 0.49)
    for got in (fast.both(v, u), slow.both(v, u)):
        torch.testing.assert_close(got[0], costs @ v, rtol=1e-10, atol=1e-9)
        torch.testing.assert_close(got[1], costs.mT @ u, rtol=1e-10, atol=1e-9)
    assert not isinstance(fast, StreamedCosts)


def test_any_kernel_is_a_cost_and_a_given_operator_keeps_its_own():
    solution = attrs.evolve(SOLVER, kernel=Laplacian(), rank=30).solve(X, Y)
    least = float(Exact(kernel=Laplacian()).solve(X, Y).cost)
    assert least <= float(solution.cost) < 1.2 * least
    given = SOLVER.solve_operator(operator_of(Gaussian(), X, Y, epsilon=0.3), a=A, b=B)
    torch.testing.assert_close(given.cost, SOLVER.solve(X, Y, a=A, b=B).cost, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="pass y="):
        given.barycentric_map()


@pytest.mark.parametrize("kernel", [Gaussian(), Laplacian()])
def test_the_gradient_is_that_of_the_cost_of_the_plan(kernel):
    x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
    solution = attrs.evolve(SOLVER, kernel=kernel).solve(x, y, a=A, b=B)
    got = torch.autograd.grad(solution.value, (x, y))
    expected = torch.autograd.grad((solution.plan() * -kernel.log_kernel(x, y)).sum(), (x, y))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
    assert not solution.plan().requires_grad
    with pytest.raises(ValueError, match="no derivative by the weights"):
        SOLVER.solve(X, Y, a=A.clone().requires_grad_())


def test_each_problem_of_a_batch_is_solved_as_if_it_were_alone():
    x, b = normal(2, 20, 2), torch.stack([weights(30, seed) for seed in range(2)])
    together = SOLVER.solve(x, Y, b=b)
    for i in range(2):
        alone = SOLVER.solve(x[i], Y, b=b[i])
        torch.testing.assert_close(together.cost[i], alone.cost, rtol=1e-6, atol=0)
        torch.testing.assert_close(together.plan()[i].sum(0), b[i], rtol=0, atol=1e-13)


def test_points_of_weight_zero_change_little_and_are_sent_somewhere_sensible():
    a = torch.cat([A, torch.zeros(1, dtype=torch.float64)])
    solution = SOLVER.solve(torch.cat([X, X[:1]]), Y, a=a, b=B)
    assert solution.plan()[40].eq(0).all()
    torch.testing.assert_close(solution.barycentric_map()[40], solution.barycentric_map()[0], rtol=0, atol=1e-2)
    assert float(solution.cost) == pytest.approx(float(SOLVER.solve(X, Y, a=A, b=B).cost), rel=0.05)


def test_new_points_go_where_the_levels_send_them():
    solution = attrs.evolve(SOLVER, tolerance=1e-5).solve(X, Y)
    sure = solution.out.amax(-1) > 0.99
    assert int(sure.sum()) > 20
    torch.testing.assert_close(solution.barycentric_map(X)[sure], solution.barycentric_map()[sure], rtol=0, atol=0.05)
    given = SOLVER.solve_operator(operator_of(Gaussian(), X, Y), y=Y)
    with pytest.raises(ValueError, match=r"solve\(x, y\)"):
        given.barycentric_map(X)


def test_the_dtype_follows_and_a_solution_is_where_the_next_one_starts():
    single = SOLVER.solve(X.float(), Y.float())
    assert {single.cost.dtype, single.w.dtype, single.plan().dtype} == {torch.float32}
    assert float(single.marginal_error) < 1e-5
    cold = SOLVER.solve(X, Y)
    assert float(single.cost) == pytest.approx(float(cold.cost), rel=0.05)
    warm = SOLVER.solve(X, Y, init=cold)
    assert warm.iterations < cold.iterations
    assert float(warm.cost) <= float(cold.cost)
    with pytest.raises(ValueError, match="of rank 4"):
        attrs.evolve(SOLVER, rank=4).solve(X, Y, init=cold)


def test_twenty_thousand_points_are_a_matter_of_moments():
    x, y = normal(20_000, 8).float(), normal(20_000, 8, seed=1).float() + 1
    with pytest.warns(RuntimeWarning, match="raise max_iterations"):
        solution = attrs.evolve(SOLVER, max_iterations=5).solve(x, y)
    shift = 8 / 2  # all plans cost at least what the means do, and the independent one costs the variances too
    assert shift < float(solution.cost) < shift + 8
    assert solution.matvec(y).shape == (20_000, 8)


def test_the_seed_is_the_only_chance():
    before = torch.random.get_rng_state()
    one, two, other = (attrs.evolve(SOLVER, seed=seed).solve(X, Y) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one.plan(), two.plan())
    assert not torch.equal(one.plan(), other.plan())


def test_points_that_all_coincide_cost_nothing_and_single_points_are_solved():
    same = torch.ones(4, 2, dtype=torch.float64)
    solution = SOLVER.solve(same, same[:1])
    assert bool(solution.converged)
    assert float(solution.cost) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": normal(5, 2) * torch.nan}, r"x\[0, 0\] is nan"),
        ({"x": normal(0, 2)}, "non-empty"),
        ({"x": normal(5, 3)}, "different shapes"),
        ({"x": normal(5, 2).float()}, "convert one of them"),
        ({"a": torch.tensor([0.5, 0.7, -0.2, 0.0, 0.0])}, "a holds a weight that is negative"),
        ({"b": torch.ones(4)}, "a has mass 1 and b 4"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {"x": normal(5, 2), "y": normal(4, 2, seed=1)} | changes
    with pytest.raises(ValueError, match=message):
        SOLVER.solve(arguments.pop("x"), arguments.pop("y"), **arguments)
    for field in ("rank", "step", "tolerance", "max_iterations"):
        with pytest.raises(ValueError, match=field):
            attrs.evolve(SOLVER, **{field: 0})
