"""Sinkhorn against what is known without it: closed forms, a dense iteration in numpy, POT, finite differences."""

from __future__ import annotations

import attrs
import numpy as np
import ot
import pytest
import torch
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.special import logsumexp

from atlas_kernels_builtin import Gaussian, operator_of

POT = {"method": "sinkhorn_log", "stopThr": 1e-13, "numItermax": 20_000}
EXACT = Sinkhorn(kernel=Gaussian(), epsilon=0.2, tolerance=1e-12)


def normal(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def weights(n, seed=0):
    raw = np.random.default_rng(seed).uniform(0.2, 1, size=n)
    return torch.tensor(raw / raw.sum())


def cost_matrix(x, y, bandwidth=1.0):
    return ((x[:, None] - y[None]) ** 2).sum(-1).numpy() / (2 * bandwidth**2)


def reference(cost, a, b, epsilon):
    """Sinkhorn as in Peyré & Cuturi 2019, eq. 4.40, on the dense matrix: plan, ⟨P, C⟩ + ε KL(P | a ⊗ b)."""
    a, b = np.asarray(a), np.asarray(b)
    f, g = np.zeros_like(a), np.zeros_like(b)
    for _ in range(20_000):
        before = f
        f = -epsilon * logsumexp((g - cost) / epsilon, b=b, axis=1)
        g = -epsilon * logsumexp((f[:, None] - cost) / epsilon, b=a[:, None], axis=0)
        if np.abs(f - before).max() < 1e-14:
            break
    product = np.outer(a, b)
    plan = product * np.exp((f[:, None] + g - cost) / epsilon)
    divergence = np.sum(np.where(plan > 0, plan * np.log(np.where(plan > 0, plan / product, 1)), 0) - plan + product)
    return plan, float((plan * cost).sum() + epsilon * divergence)


@pytest.mark.parametrize("epsilon", [0.05, 0.2, 5.0])
def test_plan_cost_and_value_equal_the_dense_reference(epsilon):
    x, y, a, b = normal(30, 3), normal(25, 3, seed=1) + 0.5, weights(30), weights(25, seed=1)
    plan, value = reference(cost_matrix(x, y, 0.8), a, b, epsilon)
    solution = Sinkhorn(kernel=Gaussian(0.8), epsilon=epsilon, tolerance=1e-12, max_iterations=20_000).solve(
        x, y, a=a, b=b
    )
    assert solution.status == ("converged",)
    np.testing.assert_allclose(solution.plan(), plan, rtol=0, atol=1e-11)
    assert float(solution.cost) == pytest.approx((plan * cost_matrix(x, y, 0.8)).sum(), rel=1e-9)
    assert float(solution.value) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_pot(dtype):
    x, y, a, b = normal(40, 2), normal(35, 2, seed=1), weights(40), weights(35, seed=1)
    cost = cost_matrix(x, y)
    theirs = ot.sinkhorn(a.numpy(), b.numpy(), cost, 0.1, **POT)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    solver = Sinkhorn(kernel=Gaussian(), epsilon=0.1, tolerance=tolerance, max_iterations=20_000)
    ours = solver.solve(x.to(dtype), y.to(dtype), a=a.to(dtype), b=b.to(dtype))
    assert ours.value.dtype == ours.plan().dtype == dtype
    np.testing.assert_allclose(ours.plan(), theirs, rtol=0, atol=1e-10 if dtype == torch.float64 else 1e-6)
    assert float(ours.cost) == pytest.approx((theirs * cost).sum(), rel=1e-9 if dtype == torch.float64 else 1e-5)


def gaussian_value(mean_a, cov_a, mean_b, cov_b, epsilon):
    """Entropic transport of Gaussians at the cost |x − y|² / 2 (Janati et al. 2020, theorem 1, halved: its σ² = ε)."""
    root, one = np.real(sqrtm(cov_a)), np.eye(len(cov_a))
    d = np.real(sqrtm(4 * root @ cov_b @ root + epsilon**2 * one))
    spread = np.trace(cov_a) + np.trace(cov_b) - np.trace(d) + len(one) * epsilon * (1 - np.log(2 * epsilon))
    shift = np.sum((np.asarray(mean_a) - np.asarray(mean_b)) ** 2)
    slope = (root @ d @ np.linalg.inv(root) - epsilon * one) / 2  # covariance of x and y under the plan
    return (shift + spread + epsilon * np.linalg.slogdet(d + epsilon * one)[1]) / 2, slope


def on_grid(mean, cov, side, width=7.0):
    """Points and weights whose sums are integrals over the Gaussian, exact to far below the tolerances here."""
    axes = [np.linspace(m - width * s, m + width * s, side) for m, s in zip(mean, np.sqrt(np.diag(cov)), strict=True)]
    points = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=-1)
    centred = points - np.asarray(mean)
    density = np.exp(-0.5 * np.einsum("ni,ij,nj->n", centred, np.linalg.inv(cov), centred))
    return torch.tensor(points), torch.tensor(density / density.sum())


GAUSSIANS = {
    "1d": ([0.3], [[0.8]], [-0.6], [[0.3]], 120),
    "2d": ([0.3, 0.0], [[0.5, 0.1], [0.1, 0.3]], [-0.2, 0.4], [[0.2, -0.05], [-0.05, 0.6]], 32),
}


@pytest.mark.parametrize("case", GAUSSIANS)
@pytest.mark.parametrize("epsilon", [0.3, 1.0])
def test_transport_between_gaussians_is_the_closed_form(case, epsilon):
    """The densities are on grids, so that nothing is random: the rest is the quadrature's error, below 1e-8."""
    mean_a, cov_a, mean_b, cov_b, side = GAUSSIANS[case]
    cov_a, cov_b = np.asarray(cov_a), np.asarray(cov_b)
    mean_a, mean_b = (torch.tensor(mean, dtype=torch.float64) for mean in (mean_a, mean_b))
    x, a = on_grid(mean_a.numpy(), cov_a, side)
    y, b = on_grid(mean_b.numpy(), cov_b, side)
    solution = Sinkhorn(kernel=Gaussian(), epsilon=epsilon, tolerance=1e-10).solve(x, y, a=a, b=b)
    value, cross = gaussian_value(mean_a.numpy(), cov_a, mean_b.numpy(), cov_b, epsilon)
    assert float(solution.value) == pytest.approx(value, rel=1e-7)
    inner = (x - mean_a).abs().amax(-1) < 2 * np.sqrt(cov_a.max())
    expected = mean_b + (x - mean_a) @ torch.tensor(np.linalg.inv(cov_a) @ cross)
    torch.testing.assert_close(solution.barycentric_map()[inner], expected[inner], rtol=0, atol=1e-6)
    out_of_sample = mean_a[None] + 0.123
    landing = mean_b[None] + 0.123 * torch.tensor(np.ones((1, len(mean_a))) @ np.linalg.inv(cov_a) @ cross)
    torch.testing.assert_close(solution.barycentric_map(out_of_sample), landing, rtol=0, atol=1e-6)


def test_large_epsilon_forgets_the_cost_and_small_epsilon_finds_the_assignment():
    x, y = normal(12, 2), normal(12, 2, seed=1)
    cost = cost_matrix(x, y)
    far = Sinkhorn(kernel=Gaussian(), epsilon=1e6).solve(x, y)
    np.testing.assert_allclose(far.plan(), np.full((12, 12), 1 / 144), rtol=1e-4)
    near = Sinkhorn(kernel=Gaussian(), epsilon=0.05, tolerance=1e-4).solve(x, y)
    best = ot.emd2(np.full(12, 1 / 12), np.full(12, 1 / 12), cost)
    assert best - 1e-3 <= float(near.cost) <= best + 0.05 * np.log(12)  # no plan's KL exceeds ln n


def value_of(x, y, a, b, epsilon=0.2):
    operator = operator_of(Gaussian(), x, y, epsilon=epsilon)
    return attrs.evolve(EXACT, epsilon=None).solve_operator(operator, a=a, b=b).value


def slope(function, step=1e-5):
    """Derivative at 0 by central differences of fourth order."""
    near, far = function(step) - function(-step), function(2 * step) - function(-2 * step)
    return float((8 * near - far) / (12 * step))


def test_the_gradient_is_that_of_finite_differences():
    x, y, a, b = normal(8, 2), normal(7, 2, seed=1), weights(8), weights(7, seed=1)
    epsilon = torch.tensor(0.2, dtype=torch.float64)
    attached = [value.clone().requires_grad_() for value in (x, y, a, b, epsilon)]
    dx, dy, da, db, de = torch.autograd.grad(value_of(*attached), attached)
    ways = normal(8, 2, seed=2), normal(7, 2, seed=3), normal(8, seed=4), normal(7, seed=5)
    to_a, to_b = ways[2] - ways[2].mean(), ways[3] - ways[3].mean()  # mass is kept
    close = {"rel": 1e-6, "abs": 1e-9}
    assert slope(lambda h: value_of(x + h * ways[0], y, a, b)) == pytest.approx(float((dx * ways[0]).sum()), **close)
    assert slope(lambda h: value_of(x, y + h * ways[1], a, b)) == pytest.approx(float((dy * ways[1]).sum()), **close)
    assert slope(lambda h: value_of(x, y, a + h * to_a, b)) == pytest.approx(float((da * to_a).sum()), **close)
    assert slope(lambda h: value_of(x, y, a, b + h * to_b)) == pytest.approx(float((db * to_b).sum()), **close)
    assert slope(lambda h: value_of(x, y, a, b, 0.2 + h)) == pytest.approx(float(de), **close)
    both = float((da * a).sum() + (db * b).sum())  # more mass on both sides
    assert slope(lambda h: value_of(x, y, a * (1 + h), b * (1 + h))) == pytest.approx(both, **close)


def test_the_gradient_in_weights_that_are_zero_is_one_sided_and_finite():
    x, y, b = normal(8, 2), normal(7, 2, seed=1), weights(7, seed=1)
    a = torch.cat([weights(7), torch.zeros(1, dtype=torch.float64)])
    attached = a.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value_of(x, y, attached, b), attached)
    way = torch.zeros_like(a)
    way[7], way[0] = 1, -1
    step = 1e-6
    forward = (value_of(x, y, a + step * way, b) - value_of(x, y, a, b)) / step
    # The derivative of ε KL grows as log h near 0 in the primal, but not in the optimum: first order in h.
    assert float(gradient @ way) == pytest.approx(float(forward), rel=1e-4)


def test_the_gradient_in_x_points_away_from_where_the_plan_sends_it():
    """For C = |x − y|² / 2 and weights 1/n the gradient is (x − T(x)) / n, T the barycentric map."""
    x, y = normal(10, 2).requires_grad_(), normal(10, 2, seed=1) + 3
    solution = EXACT.solve(x, y)
    solution.value.backward()
    torch.testing.assert_close(x.grad, (x.detach() - solution.barycentric_map()) / 10, rtol=1e-9, atol=1e-11)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 9), m=st.integers(1, 9), epsilon=st.floats(0.3, 10), seed=st.integers(0, 99))
def test_a_solution_is_feasible_symmetric_and_between_its_bounds(n, m, epsilon, seed):
    x, y, a, b = normal(n, 2, seed=seed), normal(m, 2, seed=seed + 1), weights(n, seed), weights(m, seed + 1)
    solver = Sinkhorn(kernel=Gaussian(), epsilon=epsilon, tolerance=1e-9, max_iterations=20_000)
    there, back = solver.solve(x, y, a=a, b=b), solver.solve(y, x, a=b, b=a)
    assert bool(there.converged)
    plan = there.plan()
    assert float((plan.sum(1) - a).abs().sum()) <= 1e-9
    assert float((plan.sum(0) - b).abs().sum()) <= 1e-9
    torch.testing.assert_close(plan, back.plan().T, rtol=0, atol=1e-7)
    assert float(there.value) == pytest.approx(float(back.value), rel=1e-6, abs=1e-9)
    cost = cost_matrix(x, y)
    least = ot.emd2(a.numpy(), b.numpy(), cost) if min(n, m) > 1 else float(a.numpy() @ cost @ b.numpy())
    assert least - 1e-7 <= float(there.cost) <= float(there.value) + 1e-7
    assert float(there.value) <= float(a.numpy() @ cost @ b.numpy()) + 1e-7


@attrs.frozen
class Laplacian:
    """Any kernel will do: log k = −|x − y|, and no `operator` of its own."""

    has_log = True
    item_ndim = 1

    def log_kernel(self, x, y):
        return -torch.cdist(x, y)


def test_a_strangers_kernel_is_a_cost():
    x, y = normal(15, 2), normal(12, 2, seed=1)
    theirs = ot.sinkhorn(
        [], [], torch.cdist(x, y).numpy(), 0.1, method="sinkhorn_log", stopThr=1e-13, numItermax=20_000
    )
    ours = Sinkhorn(kernel=Laplacian(), epsilon=0.1, tolerance=1e-12, max_iterations=20_000).solve(x, y)
    np.testing.assert_allclose(ours.plan(), theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("epsilon", [0.3, 0.02])
@pytest.mark.parametrize("dimension", [2, 40])
def test_the_error_that_is_told_is_that_of_the_potentials(tolerance, epsilon, dimension):
    """Also where it was told from products with entries in float32, around exact sums."""
    x, y, a, b = normal(300, dimension), normal(250, dimension, seed=1), weights(300), weights(250, seed=1)
    kernel = Gaussian(dimension**0.5)
    solution = Sinkhorn(kernel=kernel, epsilon=epsilon, tolerance=tolerance).solve(x, y, a=a, b=b)
    cost = torch.tensor(cost_matrix(x, y, kernel.bandwidth))
    logs = (solution.f[:, None] + solution.g - cost) / epsilon
    plan = a[:, None] * b * logs.exp()
    errors = [float((plan.sum(i) - w).abs().sum()) for i, w in ((1, a), (0, b))]
    assert solution.status == ("converged",)
    assert max(errors) <= tolerance
    assert float(solution.marginal_error) == pytest.approx(max(errors), abs=0.1 * tolerance)
