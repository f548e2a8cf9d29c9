"""Barycenters against POT, and Gaussians in closed form, whose entropic bias is known too."""

from __future__ import annotations

import math
import pickle
import warnings

import attrs
import numpy as np
import ot
import pytest
import torch
from atlas_kernels_builtin.grids.grid import Grid
from atlas_kernels_builtin.kernels.energy import Energy
from atlas_kernels_builtin.kernels.laplacian import Laplacian
from atlas_kernels_builtin.kernels.squared_euclidean import SquaredEuclidean
from atlas_solvers_builtin.transport.barycenters.barycenter import Barycenter
from scipy.optimize import brentq
from scipy.special import logsumexp

import atlas_core
from atlas_core.contracts import Coupling, Solver
from atlas_kernels_builtin import Gaussian

F64 = torch.float64
SQUARED = SquaredEuclidean(scale=1.0)
LINE = torch.linspace(0, 1, 200, dtype=F64)[:, None]
MEANS, STDS, SHARES = (0.35, 0.6), (0.04, 0.08), (0.3, 0.7)


def bell(mean, std, x=LINE[:, 0]):
    return torch.softmax(-(x - mean).square() / (2 * std**2), 0)


def moments(weights, points):
    mean = float(weights @ points)
    return mean, float(weights @ (points - mean).square())


def cross(variance, std, epsilon):
    """Cov(x, y) of the entropic plan between Gaussians, for the cost |x − y|² (Janati et al. 2020, thm. 1)."""
    sigma = epsilon / 2
    return (math.sqrt(4 * variance * std**2 + sigma**2) - sigma) / 2


def expected_variance(kind, epsilon):
    """Of the barycenter of the two bells above: where the sum of what its potentials or its maps ask for is 0."""

    def excess(variance):
        pairs = [(share, std, cross(variance, std, epsilon)) for share, std in zip(SHARES, STDS, strict=True)]
        if kind == "blurred":  # Σ w log u is constant: Σ w s²/c = 1
            return sum(share * std**2 / c for share, std, c in pairs) - 1
        if kind == "debiased":  # thm. 3 of the same: Σ w c(S, s) = c(S, √S)
            return sum(share * c for share, _, c in pairs) - cross(variance, math.sqrt(variance), epsilon)
        return sum(share * c for share, _, c in pairs) - variance  # free: the mean of the maps is the identity

    return brentq(excess, 1e-9, 1.0, xtol=1e-15)


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("epsilon", [2e-2, 2e-3])
def test_gaussians_on_a_fixed_support(epsilon, debiased):
    y, b = LINE.expand(2, -1, -1), torch.stack([bell(m, s) for m, s in zip(MEANS, STDS, strict=True)])
    grid = torch.linspace(-0.6, 1.6, 330, dtype=F64)[:, None]  # a blurred barycenter is wider than its inputs
    # The debiasing factor converges slowly in the tails, where there is hardly any mass.
    accuracy = 1e-6 if debiased else 1e-9
    solver = Barycenter(kernel=SQUARED, epsilon=epsilon, shares=SHARES, debiased=debiased, tolerance=accuracy)
    plan = solver.solve(grid, y, b=b)
    mean, variance = moments(plan.weights, grid[:, 0])
    assert plan.converged
    assert mean == pytest.approx(np.dot(SHARES, MEANS), abs=1e-6)
    assert variance == pytest.approx(expected_variance("debiased" if debiased else "blurred", epsilon), rel=1e-4)
    if debiased and epsilon == 2e-3:  # and hardly any bias is left: the closed form of Wasserstein barycenters
        assert math.sqrt(variance) == pytest.approx(np.dot(SHARES, STDS), rel=0.02)


def test_gaussians_on_a_free_support():
    """Maps between Gaussians are affine, so that a Gaussian stays one and shrinks to the closed form."""
    unit = torch.linspace(-6, 6, 120, dtype=F64)
    y = torch.stack([mean + std * unit for mean, std in zip(MEANS, STDS, strict=True)])[..., None]
    start = 0.5 + 0.1 * unit[::2]
    solver = Barycenter(kernel=SQUARED, epsilon=2e-3, shares=SHARES, support="free", tolerance=1e-6)
    plan = solver.solve(start[:, None], y, a=bell(0.0, 1.0, unit[::2]), b=bell(0.0, 1.0, unit).expand(2, -1))
    mean, variance = moments(plan.weights, plan.points[:, 0])
    assert plan.converged
    assert mean == pytest.approx(np.dot(SHARES, MEANS), abs=1e-5)
    assert variance == pytest.approx(expected_variance("free", 2e-3), rel=1e-4)


def clouds(*sizes, d=2):
    rng = np.random.default_rng(0)
    points = [torch.tensor(rng.normal(size=(size, d)) + 2 * i) for i, size in enumerate(sizes)]
    return points, [torch.softmax(torch.tensor(rng.normal(size=size)), 0) for size in sizes]


@pytest.mark.parametrize("kernel", [SQUARED, Laplacian(scale=0.5)], ids=["squared", "laplacian"])
def test_is_the_barycenter_of_pot(kernel):
    support = torch.tensor(np.random.default_rng(1).normal(size=(40, 2)))
    histograms = torch.softmax(torch.tensor(np.random.default_rng(2).normal(size=(3, 40))), -1)
    cost = -kernel.log_kernel(support, support)
    # Of POT's update Π u^w is an invariant, and 1, as it has to be, for equal shares alone.
    expected = ot.bregman.barycenter(histograms.T.numpy(), cost.numpy(), 0.5, numItermax=2000, stopThr=1e-14)
    plan = Barycenter(kernel=kernel, epsilon=0.5, tolerance=1e-10).solve(
        support, support.expand(3, -1, -1), b=histograms
    )
    assert plan.converged
    np.testing.assert_allclose(plan.weights, expected, rtol=0, atol=1e-8)
    plans = plan.plan()
    torch.testing.assert_close(plans.sum(2), plan.weights.expand(3, -1), rtol=0, atol=2e-10)
    torch.testing.assert_close(plans.sum(1), histograms, rtol=0, atol=2e-10)
    assert plan.marginal_error <= 2e-10
    torch.testing.assert_close(plan.cost, (plans * cost).sum((1, 2)))


def slope_by_weights(a, b, cost, epsilon):
    """d/da of min ⟨P, C⟩ + ε Σ P (ln P − 1) over plans between a and b, by Sinkhorn's iteration on the dense matrix."""
    f, g = np.zeros(len(a)), np.zeros(len(b))
    for _ in range(20_000):
        before = f
        f = epsilon * (np.log(a) - logsumexp((g - cost) / epsilon, axis=1))
        g = epsilon * (np.log(b) - logsumexp((f[:, None] - cost) / epsilon, axis=0))
        if np.abs(f - before).max() < 1e-14:
            break
    return f


@pytest.mark.parametrize("debiased", [False, True])
def test_no_other_weights_are_nearer(debiased):
    """The optimality condition of a convex problem, from a dense reference: the objective's slope is level where there
    is mass, and no lower where there is none."""
    rng, epsilon = np.random.default_rng(0), 0.7
    support, y = (torch.tensor(rng.normal(size=shape)) for shape in ((8, 2), (3, 7, 2)))
    b = torch.softmax(torch.tensor(rng.normal(size=(3, 7))), -1)
    shares = (0.5, 0.3, 0.2)
    accuracy = 1e-6 if debiased else 1e-9
    solver = Barycenter(kernel=SQUARED, epsilon=epsilon, shares=shares, debiased=debiased, tolerance=accuracy)
    plan = solver.solve(support, y, b=b)
    assert plan.converged
    weights = np.maximum(plan.weights.numpy(), 1e-200)
    slope = sum(
        share * slope_by_weights(weights, each.numpy(), -SQUARED.log_kernel(support, cloud).numpy(), epsilon)
        for share, cloud, each in zip(shares, y, b, strict=True)
    )
    if debiased:
        own = slope_by_weights(weights, weights, -SQUARED.log_kernel(support, support).numpy(), epsilon)
        slope = slope - own  # of OT(a, a) / 2, in both of its arguments
    excess = slope - weights @ slope
    heavy = weights > 1e-4
    assert heavy.sum() == (7 if debiased else 8)  # the debiased one leaves a point empty
    assert np.abs(excess[heavy]).max() < (1e-4 if debiased else 1e-7)
    assert (excess[~heavy] > 0.01).all()


@pytest.mark.parametrize("debiased", [False, True])
def test_points_of_weight_zero_count_for_nothing(debiased):
    rng = np.random.default_rng(1)
    support, y = (torch.tensor(rng.normal(size=shape)) for shape in ((8, 2), (3, 7, 2)))
    b = torch.softmax(torch.tensor(rng.normal(size=(3, 7))), -1)
    b[0, 2], b[1, :3] = 0, 0
    y[0, 2], y[1, 0] = 5.0, -8.0
    b = b / b.sum(-1, keepdim=True)
    solver = Barycenter(kernel=SQUARED, epsilon=0.7, debiased=debiased, tolerance=1e-5 if debiased else 1e-9)
    plan = solver.solve(support, y, b=b)
    kept = [(cloud[each > 0], each[each > 0]) for cloud, each in zip(y, b, strict=True)]
    expected = solver.solve_many(*zip(*kept, strict=True), support=support)
    assert plan.converged
    # The points of weight 0 have their part in the ε at which it starts, and in nothing else.
    torch.testing.assert_close(plan.weights, expected.weights, rtol=0, atol=1e-4 if debiased else 1e-9)
    torch.testing.assert_close(plan.value, expected.value, rtol=1e-4 if debiased else 1e-9, atol=0)
    assert plan.plan()[0, :, 2].eq(0).all()
    assert plan.couplings.g.isfinite().all()


def test_an_input_of_share_zero_has_no_say():
    inputs = torch.softmax(torch.tensor(np.random.default_rng(2).normal(size=(2, 30))), -1)
    inputs[0, 7] = 0
    inputs[0] /= inputs[0].sum()
    support = LINE[:180:6]
    solver = Barycenter(kernel=SQUARED, epsilon=0.01, shares=(1.0, 0.0), tolerance=1e-10)
    plan = solver.solve(support, support.expand(2, -1, -1), b=inputs)
    k = (SQUARED.log_kernel(support, support) / 0.01).exp()
    torch.testing.assert_close(plan.weights, (k / k.sum(0)) @ inputs[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(plan.plan().sum(1), inputs, rtol=0, atol=1e-9)  # and yet it is coupled


def test_debiased_a_barycenter_of_one_input_is_that_input():
    support = torch.tensor(np.random.default_rng(0).normal(size=(8, 2)))
    one = torch.softmax(torch.tensor(np.random.default_rng(3).normal(size=8)), 0)
    blurred = Barycenter(kernel=SQUARED, epsilon=0.3, tolerance=1e-6).solve(support, support[None], b=one[None])
    assert float((blurred.weights - one).abs().max()) > 0.02
    debiased = Barycenter(kernel=SQUARED, epsilon=0.3, debiased=True, tolerance=1e-6)
    back = debiased.solve(support, support[None], b=one[None])
    assert back.converged
    torch.testing.assert_close(back.weights, one, rtol=0, atol=1e-4)


@pytest.mark.parametrize("debiased", [False, True])
def test_images_are_averaged_as_pot_does(debiased):
    places = [torch.linspace(0, 1, size, dtype=F64) for size in (14, 11)]
    images = torch.stack([bell(m, 0.12, places[0])[:, None] * bell(1 - m, 0.15, places[1]) for m in (0.3, 0.5, 0.6)])
    theirs = ot.bregman.convolutional_barycenter2d_debiased if debiased else ot.bregman.convolutional_barycenter2d
    expected = theirs(images.numpy(), 0.05, numItermax=5000, stopThr=1e-11)
    # POT puts the outermost pixels on the border of the unit square.
    grid = Grid((14, 11), kernel=SQUARED, extent=(14 / 13, 11 / 10))
    solver = Barycenter(kernel=grid, epsilon=0.05, debiased=debiased, tolerance=3e-6 if debiased else 1e-9)
    plan = solver.solve_images(images)
    assert plan.converged
    # Debiased, neither has quite arrived after thousands of iterations: weights are up to 0.03.
    accuracy = 2e-4 if debiased else 1e-8
    np.testing.assert_allclose(plan.weights.reshape(14, 11), expected / expected.sum(), rtol=0, atol=accuracy)


def test_a_small_epsilon_does_not_underflow():
    images = torch.zeros(2, 30, 30, dtype=F64)
    images[0, 2:5, 2:5], images[1, 25:28, 25:28] = 1 / 9, 1 / 9
    plan = Barycenter(kernel=SQUARED, epsilon=1e-3, tolerance=1e-4, debiased=True).solve_images(images)
    assert plan.converged
    mean = plan.weights @ plan.points
    torch.testing.assert_close(mean, torch.full((2,), 0.5, dtype=F64), rtol=0, atol=1e-3)
    assert float(plan.weights.reshape(30, 30)[12:18, 12:18].sum()) > 0.99  # halfway, where neither input has mass


def test_a_free_support_is_that_of_pot():
    (first, second), weights = clouds(30, 25)
    start = torch.tensor(np.random.default_rng(3).normal(size=(20, 2)))
    solver = Barycenter(kernel=SQUARED, epsilon=3.0, support="free", tolerance=1e-6)
    plan = solver.solve_many([first, second], weights, support=start)
    assert plan.converged
    # Started there, POT's iteration of the same name stays; both are slow where points are about to meet.
    inputs = [first.numpy(), second.numpy()], [w.numpy() for w in weights]
    stays = ot.bregman.free_support_sinkhorn_barycenter(*inputs, plan.points.numpy(), 3.0, numItermax=1)
    np.testing.assert_allclose(plan.points, stays, rtol=0, atol=1e-5)
    moves = ot.bregman.free_support_sinkhorn_barycenter(*inputs, start.numpy(), 3.0, numItermax=1)
    assert np.abs(moves - start.numpy()).max() > 0.1


def test_a_barycenter_is_where_the_next_one_starts():
    y, b = LINE.expand(2, -1, -1), torch.stack([bell(m, s) for m, s in zip(MEANS, STDS, strict=True)])
    solver = Barycenter(kernel=SQUARED, epsilon=2e-2, tolerance=1e-8)
    cold = solver.solve(LINE, y, b=b)
    again = solver.solve(LINE, y, b=b, init=cold)
    assert again.iterations <= 2 < cold.iterations
    torch.testing.assert_close(again.weights, cold.weights, rtol=0, atol=1e-8)


def test_clouds_of_any_size_and_mass():
    points, weights = clouds(9, 14, 5)
    support = torch.cat(points)
    solver = Barycenter(kernel=Gaussian(1.0), epsilon=0.5, tolerance=1e-9)
    plan = solver.solve_many(points, [3 * w for w in weights], support=support)
    assert float(plan.weights.sum()) == pytest.approx(3)
    assert plan.couplings.f.shape == (3, 28)
    one = attrs.evolve(solver, shares=(1.0,)).solve(support, points[1][None], b=weights[1][None])
    # Of one input, u is constant: the rows of K diag(1/K1) b.
    k = Gaussian(1.0).log_kernel(support, points[1]) / 0.5
    torch.testing.assert_close(one.weights, (k.exp() / k.exp().sum(0)) @ weights[1], rtol=0, atol=1e-9)
    operator_plan = solver.solve_operator(plan.couplings.problem.operator, b=3 * plan.couplings.problem.b / 3)
    torch.testing.assert_close(operator_plan.weights, plan.weights, rtol=0, atol=1e-7)


@pytest.mark.parametrize("support", ["fixed", "free"])
def test_weights_normalised_in_float32_are_normalised(support):
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(30, 2, generator=generator).double(), torch.randn(2, 25, 2, generator=generator).double()
    a, b = (torch.rand(size, generator=generator) for size in ((30,), (2, 25)))
    a, b = a / a.sum(), b / b.sum(-1, keepdim=True)
    exact = b.double() * (b[0].double().sum() / b.double().sum(-1, keepdim=True))
    solver = Barycenter(kernel=SQUARED, epsilon=0.5, support=support, tolerance=1e-9)
    if support == "fixed":
        found, expected = solver.solve(x, y, b=b), solver.solve(x, y, b=exact)
        many = solver.solve_many(list(y), list(b), support=x)
        torch.testing.assert_close(many.weights, expected.weights, rtol=1e-7, atol=1e-12)
    else:
        found = solver.solve(x, y, a=a, b=b)
        expected = solver.solve(x, y, a=a.double() * (exact[0].sum() / a.double().sum()), b=exact)
        assert solver.solve(x, y, a=a).converged
        torch.testing.assert_close(found.points, expected.points, rtol=0, atol=1e-8)
    assert found.converged
    torch.testing.assert_close(found.weights, expected.weights, rtol=1e-7, atol=1e-12)


def test_is_a_solver_found_by_name_and_says_when_it_gave_up():
    solver = atlas_core.build("solver", "barycenter", kernel=SQUARED, epsilon=1e-3, max_iterations=2)
    assert isinstance(solver, Solver)
    assert pickle.loads(pickle.dumps(solver)) == solver  # noqa: S301 - our own bytes
    y, b = LINE.expand(2, -1, -1), torch.stack([bell(m, s) for m, s in zip(MEANS, STDS, strict=True)])
    with pytest.warns(RuntimeWarning, match="max-iterations") as caught:
        plan = solver.solve(LINE, y, b=b)
    moving = attrs.evolve(solver, support="free", max_iterations=1)
    with pytest.warns(RuntimeWarning, match="max-iterations") as caught_moving:
        assert moving.solve(LINE[::20], y, b=b).status == "max-iterations"
    assert [each.filename for each in (*caught, *caught_moving)] == [__file__] * 2
    assert isinstance(plan, Coupling)
    assert plan.status == "max-iterations"
    assert not plan.converged
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        default = atlas_core.build("solver", "barycenter").solve(LINE, y, b=b)
    assert float(default.epsilon[0] if default.epsilon.ndim else default.epsilon) > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Barycenter(shares=(1.0, -1.0)), "shares"),
        (lambda: Barycenter(shares=(0.0, 0.0)), "shares must be numbers of 0 or more, one an input and not all 0"),
        (
            lambda: Barycenter().solve(LINE, LINE.expand(2, -1, -1), b=torch.ones(2, 7)),
            r"b must hold one weight a point",
        ),
        (lambda: Barycenter().solve(LINE, LINE.expand(2, -1, -1), b=[1.0]), "b must be a tensor"),
        (lambda: Barycenter().solve(LINE, torch.ones(2, 3, 2, dtype=F64)), "different shapes"),
        (lambda: Barycenter().solve(LINE, LINE[None].clone().requires_grad_()), "has no derivatives: detach"),
        (lambda: Barycenter(epsilon=1e-18).solve(LINE, LINE[None]), r"1e-18 is below what float64 can carry"),
        (lambda: Barycenter(support="free").solve(LINE, LINE[None], a=LINE.T), "one weight a point of the support"),
        (lambda: Barycenter(support="free").solve(LINE[:0], LINE[None]), "non-empty"),
        (lambda: Barycenter(kernel=Energy(), epsilon=0.1).solve(LINE, LINE[None]), "positive kernel"),
        (lambda: Barycenter().solve_images(torch.ones(2, 3, 3, dtype=torch.uint8)), "images holds torch.uint8"),
        (lambda: Barycenter().solve_images(torch.ones(2, 3, 3) * torch.nan), r"images\[0, 0, 0\] is nan"),
        (lambda: Barycenter().solve_images(torch.ones(0, 3, 3)), "one input at least"),
        (lambda: Barycenter().solve_images(torch.stack([torch.ones(3, 3), torch.zeros(3, 3)])), "b is all zero"),
        (lambda: Barycenter().solve_many([LINE, LINE.float()], support=LINE), r"points\[1\] is torch.float32"),
        (lambda: Barycenter().solve_many([LINE.numpy()], support=LINE), r"points\[0\] is a ndarray"),
        (lambda: Barycenter(debiased=True, support="free"), "debiased"),
        (lambda: Barycenter(shares=(1.0,)).solve(LINE, LINE.expand(2, -1, -1)), "1 numbers for 2 inputs"),
        (lambda: Barycenter().solve(LINE, LINE), r"k clouds, y \(k, m, d\)"),
        (lambda: Barycenter().solve(LINE, LINE[None], a=LINE[:, 0]), "leave a out"),
        (
            lambda: Barycenter().solve(
                LINE, LINE.expand(2, -1, -1), b=torch.tensor([[1.0], [2.0]], dtype=F64).expand(2, 200)
            ),
            "masses",
        ),
        (lambda: Barycenter(kernel=Laplacian(), support="free").solve(LINE, LINE[None]), "squared-Euclidean"),
        (lambda: Barycenter(support="free").solve_images(torch.ones(2, 3, 3)), "pixels"),
        (lambda: Barycenter().solve_many([LINE, LINE[:, :0]], support=LINE), "dimension"),
        (lambda: Barycenter().solve_many([LINE, LINE], [LINE[:, 0]], support=LINE), "one weight a point"),
    ],
)
def test_bad_input_is_told_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
