"""Unbalanced transport against POT, a dense iteration in numpy, Gaussians in closed form, and its own duality gap."""

from __future__ import annotations

import math
import pickle

import attrs
import numpy as np
import ot
import pytest
import torch
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn
from atlas_solvers_builtin.transport.unbalanced.unbalanced import SinkhornUnbalanced
from scipy.special import logsumexp, xlogy

import atlas_core
from atlas_core.contracts import EntropicSolution, Solver
from atlas_kernels_builtin import Gaussian, operator_of

SOLVER = SinkhornUnbalanced(kernel=Gaussian(), epsilon=0.2, rho=0.7, tolerance=1e-12)
INF = math.inf


def normal(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def weights(n, seed=0, mass=1.0):
    raw = np.random.default_rng(seed).uniform(0.2, 1, size=n)
    return torch.tensor(mass * raw / raw.sum())


def cost_matrix(x, y):
    return ((x[:, None] - y[None]) ** 2).sum(-1).numpy() / 2


def relative_entropy(p, q):
    return np.sum(xlogy(p, p) - xlogy(p, q) - p + q)


DIVERGENCES = {"kl": relative_entropy, "tv": lambda p, q: np.abs(p - q).sum()}


def objective(plan, cost, a, b, epsilon, rho_a, rho_b, marginals):
    """What is minimised, from the plan alone; a side with ρ = inf is taken to be right."""
    divergence = DIVERGENCES[marginals]
    value = (plan * cost).sum() + epsilon * relative_entropy(plan, np.outer(a, b))
    for rho, found, wanted in ((rho_a, plan.sum(1), a), (rho_b, plan.sum(0), b)):
        value += 0.0 if rho == INF else rho * divergence(found, wanted)
    return float(value)


def reference(cost, a, b, epsilon, rho_a, rho_b, marginals):
    """The plan by Chizat et al. 2018, algorithm 1, in the log domain, on the dense matrix."""

    def prox(t, rho):
        if rho == INF:
            return t
        return t * rho / (rho + epsilon) if marginals == "kl" else np.clip(t, -rho, rho)

    f, g = np.zeros_like(a), np.zeros_like(b)
    for _ in range(100_000):
        before = f
        f = prox(-epsilon * logsumexp((g - cost) / epsilon, b=b, axis=1), rho_a)
        g = prox(-epsilon * logsumexp((f[:, None] - cost) / epsilon, b=a[:, None], axis=0), rho_b)
        if np.abs(f - before).max() < 1e-15:
            break
    return np.outer(a, b) * np.exp((f[:, None] + g - cost) / epsilon)


X, Y, A, B = normal(30, 2), normal(25, 2, seed=1) + 0.5, weights(30), weights(25, seed=1, mass=1.6)


def test_satisfies_its_contracts_and_is_found_by_name():
    solver = atlas_core.build("solver", "sinkhorn-unbalanced", epsilon=0.2)
    assert isinstance(solver, Solver)
    assert solver == SinkhornUnbalanced(kernel=Gaussian(), epsilon=0.2)
    assert isinstance(solver.solve(normal(5, 2), normal(4, 2, seed=1)), EntropicSolution)
    assert pickle.loads(pickle.dumps(SOLVER)) == SOLVER  # noqa: S301 - our own bytes


@pytest.mark.parametrize("marginals", ["kl", "tv"])
@pytest.mark.parametrize(("rho_a", "rho_b"), [(0.3, 0.3), (2.0, 0.5), (INF, 0.5), (0.5, INF), (50.0, 50.0)])
def test_the_plan_is_the_dense_reference_and_costs_what_the_dual_says(marginals, rho_a, rho_b):
    cost = cost_matrix(X, Y)
    solver = attrs.evolve(SOLVER, marginals=marginals, rho_a=rho_a, rho_b=rho_b)
    solution = solver.solve(X, Y, a=A, b=B)
    assert solution.status == ("converged",)
    plan = solution.plan().numpy()
    np.testing.assert_allclose(
        plan, reference(cost, A.numpy(), B.numpy(), 0.2, rho_a, rho_b, marginals), rtol=0, atol=1e-10
    )
    primal = objective(plan, cost, A.numpy(), B.numpy(), 0.2, rho_a, rho_b, marginals)
    assert float(solution.value) == pytest.approx(primal, rel=1e-9)
    assert float(solution.gap) == pytest.approx(primal - float(solution.value), abs=1e-9)
    assert float(solution.cost) == pytest.approx((plan * cost).sum(), rel=1e-12)
    torch.testing.assert_close(solution.marginals[0], torch.tensor(plan.sum(1)))
    torch.testing.assert_close(solution.marginals[1], torch.tensor(plan.sum(0)))


def test_agrees_with_pot():
    for epsilon, rho in ((0.5, 0.1), (0.2, 1.0), (0.5, 10.0)):
        theirs = ot.unbalanced.sinkhorn_unbalanced(
            A.numpy(), B.numpy(), cost_matrix(X, Y), epsilon, rho, reg_type="kl", numItermax=50_000, stopThr=1e-15
        )
        ours = attrs.evolve(SOLVER, epsilon=epsilon, rho=rho).solve(X, Y, a=A, b=B)
        np.testing.assert_allclose(ours.plan(), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("marginals", ["kl", "tv"])
def test_a_price_without_end_is_balanced_transport(marginals):
    b = B / B.sum()
    balanced = Sinkhorn(kernel=Gaussian(), epsilon=0.2, tolerance=1e-12).solve(X, Y, a=A, b=b)
    exactly = attrs.evolve(SOLVER, marginals=marginals, rho=INF).solve(X, Y, a=A, b=b)
    torch.testing.assert_close(exactly.plan(), balanced.plan(), rtol=0, atol=1e-11)
    torch.testing.assert_close(exactly.value, balanced.value, rtol=1e-9, atol=0)
    # Total variation is exact from some finite price on; relative entropy is off by 1/ρ.
    nearly = attrs.evolve(SOLVER, marginals=marginals, rho=1e5).solve(X, Y, a=A, b=b)
    torch.testing.assert_close(nearly.plan(), balanced.plan(), rtol=0, atol=1e-11 if marginals == "tv" else 1e-6)
    with pytest.raises(ValueError, match=r"a has mass 1 and b 1\.6"):
        attrs.evolve(SOLVER, marginals=marginals, rho=INF).solve(X, Y, a=A, b=B)


def test_one_balanced_side_is_met_exactly():
    for name, side, wanted in (("rho_a", 0, A), ("rho_b", 1, B)):
        solution = attrs.evolve(SOLVER, **{name: INF}).solve(X, Y, a=A, b=B)
        torch.testing.assert_close(solution.marginals[side], wanted, rtol=0, atol=1e-11)
        assert float((solution.marginals[1 - side] - (A, B)[1 - side]).abs().sum()) > 0.05


def test_total_variation_leaves_outliers_and_relative_entropy_fades():
    x = torch.tensor([[0.0], [1.0], [40.0]], dtype=torch.float64)
    y = torch.tensor([[0.1], [1.1], [-40.0]], dtype=torch.float64)
    kept = attrs.evolve(SOLVER, marginals="tv", epsilon=0.01, rho=3.0).solve(x, y)
    torch.testing.assert_close(kept.marginals[0], torch.tensor([1 / 3, 1 / 3, 0], dtype=torch.float64))
    # A lone pair at cost C: mass (a b)^{ρ/(ε + 2ρ)} … of two unit masses, exp(−C / (ε + 2ρ)).
    x, y, one = x[:1], y[:1] + 2, torch.ones(1, dtype=torch.float64)
    faded = attrs.evolve(SOLVER, epsilon=0.4, rho=0.7).solve(x, y, a=one, b=one)
    assert float(faded.plan()) == pytest.approx(math.exp(-(2.1**2) / 2 / (0.4 + 1.4)), rel=1e-10)


def log_integral(mass, mean, variance, q):
    """log ∫ mass N(y; mean, variance) exp(q₂ y²/2 + q₁ y + q₀) dy, and the mean of the law under the integral."""
    precision, linear = 1 / variance - q[0], mean / variance + q[1]
    log = math.log(mass) - (math.log(variance * precision) - linear**2 / precision + mean**2 / variance) / 2 + q[2]
    return log, linear / precision


def transform(g, mass, mean, variance, epsilon):
    """−ε log ∫ β(y) exp((g(y) − (x − y)²/2) / ε) dy, for a quadratic g and Gaussian β: again a quadratic."""
    at = [
        log_integral(mass, mean, variance, ((g[0] - 1) / epsilon, (g[1] + x) / epsilon, g[2] / epsilon))
        for x in (0, 1, -1)
    ]
    values = [-epsilon * (log - x * x / (2 * epsilon)) for (log, _), x in zip(at, (0, 1, -1), strict=True)]
    return np.array([values[1] + values[2] - 2 * values[0], (values[1] - values[2]) / 2, values[0]])


@pytest.mark.parametrize("rho", [0.5, 4.0])
def test_between_gaussians_it_is_the_closed_form(rho):
    """Potentials between Gaussians are quadratics (Janati et al. 2020, theorem 3): a fixed point in three numbers.

    The densities are on a grid, so that nothing is random: the quadrature's error is below 1e-9.
    """
    epsilon, first, second = 0.4, (1.3, 0.4, 0.6), (0.7, -0.5, 0.25)  # mass, mean, variance
    f, g, shrink = np.zeros(3), np.zeros(3), rho / (rho + epsilon)
    for _ in range(2000):
        f = shrink * transform(g, *second, epsilon)
        g = shrink * transform(f, *first, epsilon)
    mass = math.exp(log_integral(*first, (f - transform(g, *second, epsilon)) / epsilon)[0])
    value = epsilon * first[0] * second[0] - epsilon * mass
    for side, potential in ((first, f), (second, g)):
        value += rho * (side[0] - math.exp(log_integral(*side, -potential / rho)[0]))
    points = [torch.linspace(m - 7 * s**0.5, m + 7 * s**0.5, 150, dtype=torch.float64) for _, m, s in (first, second)]
    densities = [torch.exp(-((p - m) ** 2) / (2 * s)) for p, (_, m, s) in zip(points, (first, second), strict=True)]
    a, b = (mass * d / d.sum() for d, (mass, _, _) in zip(densities, (first, second), strict=True))
    solution = attrs.evolve(SOLVER, epsilon=epsilon, rho=rho).solve(points[0][:, None], points[1][:, None], a=a, b=b)
    assert float(solution.value) == pytest.approx(value, rel=1e-8)
    assert float(solution.marginals[0].sum()) == pytest.approx(mass, rel=1e-8)
    quadratic = f[0] * points[0] ** 2 / 2 + f[1] * points[0] + f[2]
    torch.testing.assert_close(solution.f[40:110], quadratic[40:110], rtol=0, atol=1e-7)
    new = torch.tensor([[0.2]], dtype=torch.float64)
    mean = log_integral(*second, ((g[0] - 1) / epsilon, (g[1] + 0.2) / epsilon, 0.0))[1]
    assert float(solution.barycentric_map(new)) == pytest.approx(mean, abs=1e-7)


def slopes(function, start, ways, steps):
    """Derivatives of `function` (a batch of values) along each of the ways, one an argument, by a six-point stencil."""
    shifts = torch.tensor([3.0, -3.0, 2.0, -2.0, 1.0, -1.0], dtype=torch.float64)
    count = len(start)
    batch = [value.expand(count, 6, *value.shape).clone() for value in start]
    for k, (way, step) in enumerate(zip(ways, steps, strict=True)):
        batch[k][k] += step * shifts.reshape(6, *[1] * way.ndim) * way
    values = function(*batch)
    weights = torch.tensor([1.0, -1.0, -9.0, 9.0, 45.0, -45.0], dtype=torch.float64) / 60
    return (values @ weights) / torch.tensor(steps, dtype=torch.float64)


@pytest.mark.parametrize("prices", [{"rho": 0.7}, {"rho_a": INF}, {"rho_b": INF}])
@pytest.mark.parametrize("marginals", ["kl", "tv"])
def test_the_gradient_is_that_of_finite_differences(marginals, prices):
    solver = attrs.evolve(SOLVER, marginals=marginals, tolerance=1e-12, epsilon=None, **prices)

    def value_of(x, y, a, b, epsilon):
        return solver.solve_operator(operator_of(Gaussian(), x, y, epsilon=epsilon), a=a, b=b).value

    start = [X[:8], Y[:7], A[:8], B[:7], torch.tensor(0.2, dtype=torch.float64)]
    attached = [value.clone().requires_grad_() for value in start]
    gradients = torch.autograd.grad(value_of(*attached), attached)
    ways = [normal(*value.shape, seed=k) for k, value in enumerate(start)]
    found = torch.stack([(gradient * way).sum() for gradient, way in zip(gradients, ways, strict=True)])
    expected = slopes(value_of, start, ways, [1e-3, 1e-3, 1e-4, 1e-4, 1e-3])
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("marginals", ["kl", "tv"])
def test_a_higher_price_costs_what_its_marginals_are_off(marginals):
    """Danskin: dV/dρ_a = D(P 1 | a), dV/dρ_b = D(Pᵀ 1 | b)."""
    prices = {"rho_a": 0.5, "rho_b": 0.9}
    solver = attrs.evolve(SOLVER, marginals=marginals, tolerance=1e-13, **prices)
    solution = solver.solve(X, Y, a=A, b=B)
    for name, found, wanted in zip(prices, solution.marginals, (A, B), strict=True):
        ends = [
            float(attrs.evolve(solver, **{name: prices[name] + step}).solve(X, Y, a=A, b=B).value)
            for step in (1e-4, -1e-4)
        ]
        assert (ends[0] - ends[1]) / 2e-4 == pytest.approx(
            DIVERGENCES[marginals](found.numpy(), wanted.numpy()), rel=1e-6
        )


def test_points_of_weight_zero_change_nothing_and_have_a_finite_gradient():
    zero, far = torch.zeros(2, dtype=torch.float64), torch.tensor([[0.3, -0.4], [100.0, 0.0]], dtype=torch.float64)
    for marginals in ("kl", "tv"):
        solver = attrs.evolve(SOLVER, marginals=marginals)
        expected = solver.solve(X, Y, a=A, b=B)
        a, b = torch.cat([A, zero]).requires_grad_(), torch.cat([B, zero])
        solution = solver.solve(torch.cat([X, far]), torch.cat([Y, far]), a=a, b=b)
        torch.testing.assert_close(solution.value, expected.value, rtol=1e-10, atol=0)
        torch.testing.assert_close(solution.plan()[:30, :25], expected.plan(), rtol=0, atol=1e-11)
        assert solution.plan()[30:].eq(0).all()
        assert solution.f.isfinite().all()
        (gradient,) = torch.autograd.grad(solution.value, a)
        assert gradient.isfinite().all()
        step = 1e-6 * torch.eye(32, dtype=torch.float64)[30]
        forward = solver.solve(torch.cat([X, far]), torch.cat([Y, far]), a=a.detach() + step, b=b).value
        assert float(gradient[30]) == pytest.approx(float(forward - solution.value.detach()) / 1e-6, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("marginals", ["kl", "tv"])
def test_each_problem_of_a_batch_is_solved_as_if_it_were_alone(marginals):
    solver = attrs.evolve(SOLVER, marginals=marginals, rho=None)  # the mean cost, one a problem
    x, y, b = normal(3, 9, 2), normal(3, 7, 2, seed=1), torch.stack([weights(7, mass=m) for m in (0.5, 1.0, 3.0)])
    x[1] *= 3
    together = solver.solve(x, y, b=b)
    assert together.status == ("converged",) * 3
    for i in range(3):
        alone = solver.solve(x[i], y[i], b=b[i])
        for name in ("value", "cost"):
            torch.testing.assert_close(getattr(together, name)[i], getattr(alone, name), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(together.plan()[i], alone.plan(), rtol=0, atol=1e-11)
        torch.testing.assert_close(together.barycentric_map(x)[i], alone.barycentric_map())


def test_an_operator_that_cannot_absorb_gives_the_same_solution():
    @attrs.frozen
    class NoAbsorption:
        inner: object
        absorbs = False

        def __getattr__(self, name):
            if name == "scaled":
                raise AssertionError("an operator that does not absorb must not be asked to")
            return getattr(self.inner, name)

    operator = operator_of(Gaussian(), X, Y, epsilon=0.2)
    plain, absorbed = (SOLVER.solve_operator(op, a=A, b=B) for op in (NoAbsorption(operator), operator))
    torch.testing.assert_close(plain.f, absorbed.f, rtol=0, atol=1e-10)
    torch.testing.assert_close(plain.value, absorbed.value)
    expected = SOLVER.solve(X, Y, a=A, b=B).value
    torch.testing.assert_close(plain.value, expected)


def test_the_translation_is_found_at_once():
    """Sweeps alone would need some ρ / ε = 5000 of them to find the level of f against g."""
    solution = attrs.evolve(SOLVER, rho=1000.0, tolerance=1e-8).solve(X, Y, a=A, b=B)
    assert solution.iterations < 200
    assert attrs.evolve(SOLVER, rho=1000.0, marginals="tv", tolerance=1e-8).solve(X, Y, a=A, b=B).iterations < 200


@pytest.mark.parametrize(("marginals", "rho", "most"), [("kl", 10.0, 400), ("tv", 1.0, 1000), ("tv", 10.0, 1000)])
def test_newton_arrives_where_sweeps_creep(marginals, rho, most):
    """Sweeps alone need 650 here for relative entropy, and leave some 1e-5 after 1000 for total variation."""
    x, y = normal(200, 2), normal(200, 2, seed=1) + 0.5
    solver = attrs.evolve(SOLVER, epsilon=0.03, rho=rho, marginals=marginals, tolerance=1e-10, max_iterations=most)
    solution = solver.solve(x, y)
    assert solution.status == ("converged",)
    uniform = np.full(200, 1 / 200)
    primal = objective(solution.plan().numpy(), cost_matrix(x, y), uniform, uniform, 0.03, rho, rho, marginals)
    assert float(solution.value) == pytest.approx(primal, rel=1e-8)


def test_a_solution_is_where_the_next_one_starts():
    cold = SOLVER.solve(X, Y, a=A, b=B)
    assert SOLVER.solve(X, Y, a=A, b=B, init=cold).iterations == 1
    assert SOLVER.solve(X, Y, a=A, b=B, init=(cold.f, cold.g)).iterations == 1
    with pytest.raises(ValueError, match=r"init .*\(25,\)"):
        SOLVER.solve(X, Y, init=(cold.f, cold.g[:3]))


def test_float32_stays_float32_and_is_right_to_its_rounding():
    solver = attrs.evolve(SOLVER, tolerance=1e-5)
    double = SOLVER.solve(X, Y, a=A, b=B)
    single = solver.solve(X.float(), Y.float(), a=A.float(), b=B.float())
    assert {single.value.dtype, single.f.dtype, single.cost.dtype, single.plan().dtype} == {torch.float32}
    assert float(single.value) == pytest.approx(float(double.value), rel=1e-5)
    np.testing.assert_allclose(single.plan(), double.plan(), rtol=0, atol=1e-6)


def test_running_out_and_rounding_are_a_status_and_one_warning():
    with pytest.warns(RuntimeWarning, match=r"1 of 1 problem.*max-iterations.*raise max_iterations") as caught:
        solution = attrs.evolve(SOLVER, max_iterations=2, rho=10.0).solve(X, Y, a=A, b=B)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert solution.status == ("max-iterations",)
    plan = solution.plan()
    found, wanted = plan.sum(1), A * (-solution.f / 10).exp()
    torch.testing.assert_close(solution.marginal_errors[0], (found - wanted).abs().sum(), rtol=1e-9, atol=1e-14)
    with pytest.warns(RuntimeWarning, match=r"stalled.*use float64"):
        solution = SOLVER.solve(X.float(), Y.float())
    assert solution.status == ("stalled",)


@attrs.frozen
class Signed:
    has_log = False
    item_ndim = 1

    def block(self, x, y):
        return -torch.cdist(x, y)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": normal(5, 2) * torch.nan}, r"x\[0, 0\] is nan"),
        ({"x": normal(5, 3)}, "different shapes"),
        ({"x": normal(0, 2)}, "non-empty"),
        ({"x": torch.ones(5, 2, dtype=torch.int64)}, "floating point"),
        ({"a": torch.tensor([0.5, 0.7, -0.2, 0.0, 0.0])}, "a holds a weight that is negative"),
        ({"b": torch.zeros(4)}, "b is all zero"),
        ({"a": torch.ones(4)}, "one weight a point"),
    ],
)
def test_bad_input_is_named(changes, message):
    arguments = {"x": normal(5, 2), "y": normal(4, 2, seed=1)} | changes
    with pytest.raises(ValueError, match=message):
        SOLVER.solve(arguments.pop("x"), arguments.pop("y"), **arguments)


def test_a_signed_kernel_and_fields_out_of_range_are_named():
    with pytest.raises(ValueError, match=r"positive kernel.*`gaussian`"):
        attrs.evolve(SOLVER, kernel=Signed(), epsilon=1.0).solve(normal(5, 2), normal(4, 2))
    for field in ("epsilon", "rho", "rho_a", "rho_b", "tolerance", "max_iterations"):
        with pytest.raises(ValueError, match=field):
            SinkhornUnbalanced(kernel=Gaussian(), **{field: 0})
    with pytest.raises(ValueError, match="marginals"):
        SinkhornUnbalanced(kernel=Gaussian(), marginals="l2")


def test_points_that_all_coincide_and_single_points_are_solved():
    same = torch.zeros(4, 2, dtype=torch.float64)
    solution = SinkhornUnbalanced(kernel=Gaussian()).solve(same, same[:1])
    assert bool(solution.converged)
    assert float(solution.cost) == 0


@pytest.mark.parametrize("prices", [{"rho": 0.7}, {"rho": 20.0}, {"rho_a": INF}, {"rho_b": INF}, {"rho": INF}])
@pytest.mark.parametrize("what", ["potentials", "map"])
def test_implicit_gradients_are_those_of_finite_differences(prices, what):
    """Of the potentials and of the map, by x, y, a, b and ε; x_3 weighs nothing, and is mapped all the same."""
    solver = attrs.evolve(SOLVER, tolerance=1e-12, epsilon=None, **prices)
    balanced = prices.get("rho") == INF
    a = torch.where(torch.arange(8) == 3, 0.0, A[:8])
    start = [X[:8], Y[:7], a / a.sum(), B[:7] / (B[:7].sum() if balanced else 0.8), torch.tensor(0.2).double()]
    ways = [normal(8, 2, seed=2), normal(7, 2, seed=3), normal(8, seed=4) * (a > 0), normal(7, seed=5), torch.ones(())]
    if balanced:  # masses stay equal; and there is no saying which constant is f's
        ways[2:4] = [way - (a > 0) * way.sum() / 7 for way in ways[2:3]] + [ways[3] - ways[3].mean()]

    def function(x, y, a, b, epsilon, *, graph=False):
        solution = solver.solve_operator(operator_of(Gaussian(), x, y, epsilon=epsilon), a=a, b=b, y=y)
        if what == "map":
            return (normal(8, 2, seed=9) * solution.barycentric_map(differentiable=graph).square()).sum((-1, -2))
        f, g = solution.potentials() if graph else (solution.f, solution.g)
        shift = (f[..., 1:2] - g[..., 1:2]) / 2 if balanced else 0.0
        return (normal(8, seed=7) * (f - shift)).sum(-1) + (normal(7, seed=8) * (g + shift)).sum(-1)

    attached = [value.clone().requires_grad_() for value in start]
    gradients = torch.autograd.grad(function(*attached, graph=True), attached)
    found = torch.stack([(gradient * way).sum() for gradient, way in zip(gradients, ways, strict=True)])
    expected = slopes(function, start, ways, [1e-3, 1e-3, 1e-4, 1e-4, 1e-3])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_potentials_under_total_variation_have_no_graph_and_say_so():
    solution = attrs.evolve(SOLVER, marginals="tv").solve(X.clone().requires_grad_(), Y)
    assert solution.value.requires_grad
    for call in (solution.potentials, lambda: solution.barycentric_map(differentiable=True)):
        with pytest.raises(ValueError, match=r"have kinks.*use `value`"):
            call()
    free = SOLVER.solve(X, Y)
    assert not free.potentials()[0].requires_grad  # what wants no gradient gets none


def test_masses_that_differ_where_none_may_are_not_sent_to_the_solver_in_use():
    solver = attrs.evolve(SOLVER, rho=INF)
    operator = operator_of(solver.kernel, X, Y, epsilon=solver.epsilon)
    for solve in (lambda: solver.solve(X, Y, a=A, b=B), lambda: solver.solve_operator(operator, a=A, b=B)):
        with pytest.raises(ValueError, match=r"a has mass 1 and b 1\.6.*set rho, on one side") as refused:
            solve()
        assert "sinkhorn-unbalanced" not in str(refused.value)
    assert bool(attrs.evolve(solver, rho_a=0.7).solve(X, Y, a=A, b=B).converged)
