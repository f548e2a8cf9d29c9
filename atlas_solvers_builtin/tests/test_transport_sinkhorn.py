"""What a solution offers, and what bad input is answered with; its numbers are held in test_transport_truth.py."""

from __future__ import annotations

import pickle
import warnings

import attrs
import numpy as np
import pytest
import torch
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn

import atlas_core
from atlas_core.contracts import EntropicSolution, Solver
from atlas_kernels_builtin import Gaussian, operator_of

SOLVER = Sinkhorn(kernel=Gaussian(), epsilon=0.2, tolerance=1e-11)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def test_satisfies_its_contracts_and_is_found_by_name():
    solver = atlas_core.build("solver", "sinkhorn", epsilon=0.2)
    assert isinstance(solver, Solver)
    assert solver.kernel == Gaussian()
    assert solver == Sinkhorn(kernel=Gaussian(), epsilon=0.2)
    assert isinstance(solver.solve(normal(5, 2), normal(4, 2, seed=1)), EntropicSolution)
    assert pickle.loads(pickle.dumps(SOLVER)) == SOLVER  # noqa: S301 - our own bytes


def test_products_with_the_plan_are_those_of_its_matrix():
    solution = SOLVER.solve(normal(9, 2), normal(7, 2, seed=1))
    plan = solution.plan()
    u, v = normal(9, 3, seed=2), normal(7, 3, seed=3)
    torch.testing.assert_close(solution.matvec(v), plan @ v)
    torch.testing.assert_close(solution.matvec(v[:, 0]), plan @ v[:, 0])
    torch.testing.assert_close(solution.rmatvec(u), plan.T @ u)
    torch.testing.assert_close(solution.marginals[0], plan.sum(1))
    torch.testing.assert_close(solution.marginals[1], plan.sum(0))
    errors = (plan.sum(1) - 1 / 9).abs().sum(), (plan.sum(0) - 1 / 7).abs().sum()
    torch.testing.assert_close(solution.marginal_error, torch.stack(errors).max(), rtol=1e-3, atol=1e-15)


def test_the_map_of_the_points_themselves_and_of_new_ones_agree():
    x, y = normal(9, 2), normal(7, 2, seed=1)
    solution = SOLVER.solve(x, y)
    plan = solution.plan()
    torch.testing.assert_close(solution.barycentric_map(), plan @ y / plan.sum(1, keepdim=True))
    torch.testing.assert_close(solution.barycentric_map(x[2:5]), solution.barycentric_map()[2:5])


@attrs.frozen
class NoAbsorption:
    """An operator, as of a grid, that cannot store its scalings."""

    inner: object
    absorbs = False

    def __getattr__(self, name):
        if name == "with_epsilon":
            raise AttributeError(name)
        if name == "scaled":
            raise AssertionError("an operator that does not absorb must not be asked to")
        return getattr(self.inner, name)


def test_an_operator_that_cannot_absorb_gives_the_same_solution():
    x, y = normal(9, 2), normal(7, 2, seed=1)
    operator = operator_of(Gaussian(), x, y, epsilon=0.2)
    expected = SOLVER.solve_operator(operator, y=y)
    solution = SOLVER.solve_operator(NoAbsorption(operator), y=y)
    for got, truth in (
        (solution.plan(), expected.plan()),
        (solution.matvec(normal(7, 3)), expected.matvec(normal(7, 3))),
        (solution.rmatvec(normal(9)), expected.rmatvec(normal(9))),
        (solution.barycentric_map(), expected.barycentric_map()),
    ):
        torch.testing.assert_close(got, truth)


def test_each_problem_of_a_batch_is_solved_as_if_it_were_alone():
    x, y = normal(3, 9, 2), normal(3, 7, 2, seed=1)
    x[1] *= 4  # a harder problem must not change its neighbours
    a = torch.softmax(normal(3, 9, seed=2), -1)
    together = SOLVER.solve(x, y, a=a)
    assert together.value.shape == together.converged.shape == together.marginal_error.shape == (3,)
    assert together.status == ("converged",) * 3
    for i in range(3):
        alone = SOLVER.solve(x[i], y[i], a=a[i])
        torch.testing.assert_close(together.plan()[i], alone.plan(), rtol=1e-6, atol=1e-10)
        for name in ("value", "cost"):
            torch.testing.assert_close(getattr(together, name)[i], getattr(alone, name), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(together.barycentric_map()[i], alone.barycentric_map())
        torch.testing.assert_close(together.barycentric_map(x)[i], alone.barycentric_map())


def test_points_and_weights_are_shared_over_a_batch():
    x, y, b = normal(3, 9, 2), normal(7, 2, seed=1), torch.softmax(normal(7, seed=2), -1)
    together = SOLVER.solve(x, y, b=b)
    torch.testing.assert_close(together.plan()[2], SOLVER.solve(x[2], y, b=b).plan())
    torch.testing.assert_close(together.barycentric_map(x)[2], together.barycentric_map()[2])


def test_points_of_weight_zero_change_nothing_and_know_where_they_would_go():
    x, y = normal(9, 2), normal(7, 2, seed=1)
    a, b = torch.softmax(normal(9, seed=2), -1), torch.softmax(normal(7, seed=3), -1)
    zero = torch.zeros(2, dtype=torch.float64)
    extra = torch.tensor([[0.3, -0.4], [100.0, 0.0]], dtype=torch.float64)
    for solver in (SOLVER, attrs.evolve(SOLVER, epsilon=None)):  # nor the default ε
        expected = solver.solve(x, y, a=a, b=b)
        args = {"a": torch.cat([a, zero]), "b": torch.cat([b, zero])}
        solution = solver.solve(torch.cat([x, extra]), torch.cat([y, extra]), **args)
        torch.testing.assert_close(solution.value, expected.value)
        torch.testing.assert_close(solution.plan()[:9, :7], expected.plan(), rtol=1e-7, atol=1e-12)
        assert solution.plan()[9:].eq(0).all()
        assert solution.plan()[:, 7:].eq(0).all()
        assert solution.f.isfinite().all()
        torch.testing.assert_close(solution.barycentric_map()[9:], expected.barycentric_map(extra))


def test_the_default_epsilon_is_a_twentieth_of_the_mean_cost():
    x, y = normal(3, 60, 2), normal(3, 50, 2, seed=1)
    a = torch.softmax(normal(60, seed=2), -1)
    solution = Sinkhorn(kernel=Gaussian(0.5)).solve(x, y, a=a)
    cost = (x[:, :, None] - y[:, None]).square().sum(-1) / (2 * 0.25)
    torch.testing.assert_close(solution.epsilon, 0.05 * torch.einsum("bnm,n->b", cost, a) / 50)
    same = torch.zeros(4, 2)
    assert float(Sinkhorn(kernel=Gaussian()).solve(same, same).value) == 0


def test_a_solution_is_where_the_next_one_starts():
    x, y = normal(40, 2), normal(40, 2, seed=1)
    solver = attrs.evolve(SOLVER, tolerance=1e-6)
    cold = solver.solve(x, y)
    assert solver.solve(x, y, init=cold).iterations == 0
    warm = solver.solve(x + 1e-3, y, init=(cold.f, cold.g))
    assert 0 < warm.iterations <= 0.7 * cold.iterations
    torch.testing.assert_close(warm.value, solver.solve(x + 1e-3, y).value, rtol=1e-9, atol=0)
    far = solver.solve(x, y, init=(cold.f + 30 * normal(40, seed=2), cold.g))  # goes the long way round
    assert far.status == ("converged",)
    torch.testing.assert_close(far.value, cold.value, rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match=r"init .*\(40,\)"):
        SOLVER.solve(x, y, init=(cold.f, cold.g[:3]))


def test_the_report_counts_what_was_done():
    solution = SOLVER.solve(normal(9, 2), normal(7, 2, seed=1))
    assert solution.history[-1] <= 1e-11 < solution.history[0]
    assert solution.matvecs >= len(solution.history)
    assert 2 * solution.iterations >= solution.matvecs / 2
    assert solution.seconds > 0
    assert len(repr(solution)) < 1000


def test_only_the_value_has_a_graph():
    x = normal(9, 2).requires_grad_()
    solution = SOLVER.solve(x, normal(7, 2, seed=1))
    assert solution.value.requires_grad
    without = (solution.f, solution.g, solution.cost, *solution.marginals, solution.plan(), solution.barycentric_map())
    assert not any(tensor.requires_grad for tensor in without)
    with torch.no_grad():
        assert not SOLVER.solve(x, normal(7, 2, seed=1)).value.requires_grad


def test_running_out_of_iterations_is_a_status_and_one_warning():
    solver = attrs.evolve(SOLVER, max_iterations=3)
    x, y = (torch.stack([normal(9, 2, seed=seed), torch.zeros(9, 2)]) for seed in (0, 1))
    with pytest.warns(RuntimeWarning, match=r"1 of 2 problem.*max-iterations.*raise max_iterations, or") as caught:
        solution = solver.solve(x, y)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert solution.status == ("max-iterations", "converged")
    assert solution.converged.tolist() == [False, True]
    errors = (solution.plan().sum(-2) - 1 / 9).abs().sum(-1)
    torch.testing.assert_close(solution.marginal_error, errors)


def test_rounding_is_named_where_it_is_to_blame():
    solver = attrs.evolve(SOLVER, epsilon=0.2, max_iterations=10_000)
    with pytest.warns(RuntimeWarning, match=r"stalled.*use float64"):
        solution = solver.solve(normal(30, 2, dtype=torch.float32), normal(30, 2, seed=1, dtype=torch.float32))
    assert solution.status == ("stalled",)
    assert solution.iterations < 1000
    assert float(solution.marginal_error) < 1e-3


def test_a_row_with_nowhere_to_go_is_non_finite():
    @attrs.frozen
    class Window:
        has_log = True
        item_ndim = 1

        def log_kernel(self, x, y):
            return torch.where(torch.cdist(x, y) < 1, 0.0, -torch.inf)

    x = torch.tensor([[0.0], [10.0]])
    with pytest.warns(RuntimeWarning, match=r"non-finite.*widen it"):
        solution = Sinkhorn(kernel=Window(), epsilon=1.0).solve(x, torch.zeros(2, 1))
    assert solution.status == ("non-finite",)
    assert not bool(solution.converged)


def test_nothing_is_said_of_a_solution_that_converged():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solution = SOLVER.solve(normal(9, 2), normal(7, 2, seed=1))
    assert bool(solution.converged)


@attrs.frozen
class Signed:
    has_log = False
    item_ndim = 1

    def block(self, x, y):
        return -torch.cdist(x, y)


NAN = normal(5, 2)
NAN[3, 1] = torch.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": NAN}, r"x\[3, 1\] is nan"),
        ({"y": NAN / 0}, r"y\[0, 0\] is"),
        ({"x": normal(5, 3)}, "different shapes"),
        ({"a": torch.tensor([0.5, 0.7, -0.2, 0.0, 0.0])}, "a holds a weight that is negative"),
        ({"b": torch.tensor([0.5, 0.5, torch.nan, 0.0])}, "b holds a weight that is negative or not finite"),
        ({"a": torch.ones(5)}, "a has mass 5 and b 1, .*divide each by its sum"),
        ({"a": torch.zeros(5)}, "a is all zero"),
        ({"a": torch.ones(4) / 4}, r"one weight a point, \(5,\), not \(4,\)"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {"x": normal(5, 2), "y": normal(4, 2, seed=1)} | changes
    with pytest.raises(ValueError, match=message):
        SOLVER.solve(arguments.pop("x"), arguments.pop("y"), **arguments)


def test_a_signed_kernel_is_refused_with_an_alternative():
    for solver in (Sinkhorn(kernel=Signed(), epsilon=1.0), Sinkhorn(kernel=Signed())):
        with pytest.raises(ValueError, match=r"positive kernel.*`gaussian`"):
            solver.solve(normal(5, 2), normal(4, 2))


@pytest.mark.parametrize(("field", "value"), [("epsilon", 0.0), ("tolerance", 0.0), ("max_iterations", 0)])
def test_a_field_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        Sinkhorn(kernel=Gaussian(), **{field: value})


def test_a_map_that_lacks_its_points_says_what_to_pass():
    operator = operator_of(Gaussian(), normal(5, 2), normal(4, 2), epsilon=0.2)
    with pytest.raises(ValueError, match="pass y="):
        SOLVER.solve_operator(operator).barycentric_map()
    with pytest.raises(ValueError, match=r"solve\(x, y\)"):
        SOLVER.solve_operator(operator, y=normal(4, 2)).barycentric_map(normal(3, 2))
