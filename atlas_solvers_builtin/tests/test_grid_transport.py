"""Transport between images: against the dense problem, POT, and Gaussians in closed form."""

from __future__ import annotations

import itertools
import math
import pickle

import attrs
import numpy as np
import ot
import pytest
import torch
from atlas_kernels_builtin.grids.grid import Grid
from atlas_kernels_builtin.kernels.cauchy import Cauchy
from atlas_kernels_builtin.kernels.laplacian import Laplacian
from atlas_kernels_builtin.kernels.squared_euclidean import SquaredEuclidean
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn
from atlas_solvers_builtin.transport.grids.grid_dense import log_kernel_of, solve_dense
from atlas_solvers_builtin.transport.grids.grid_levels import apply_axes, levels_of
from atlas_solvers_builtin.transport.grids.grid_solve import SinkhornGrid

import atlas_core
from atlas_core.contracts import EntropicSolution, Solver
from atlas_kernels_builtin import Gaussian

F64 = torch.float64


def blobs(*shape, seed=0, count=4):
    """A few bells on a dim background, of mass 1."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[(np.arange(size) + 0.5) / size for size in shape], indexing="ij")
    image = np.full(shape, 1e-3)
    for _ in range(count):
        centre, width = rng.uniform(0.15, 0.85, len(shape)), rng.uniform(0.04, 0.12)
        image += np.exp(-sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True)) / (2 * width**2))
    return torch.tensor(image / image.sum())


def true_error(grid, epsilon, a, b, plan):
    """L1 error of both marginals, from all pairs, in float64."""
    points = grid.points()
    log_p = grid.kernel.log_kernel(points, points) / epsilon + (plan.f[:, None] + plan.g) / epsilon
    p = (log_p + a.flatten().log()[:, None] + b.flatten().log()).exp()
    return max(float((p.sum(1) - a.flatten()).abs().sum()), float((p.sum(0) - b.flatten()).abs().sum()))


@pytest.mark.parametrize("shape", [(150,), (24, 17), (9, 7, 6)], ids=str)
@pytest.mark.parametrize("share", [0.1, 0.001])
def test_the_marginals_of_all_pairs_are_right(shape, share):
    a, b = blobs(*shape), blobs(*shape, seed=1, count=6)
    grid = Grid(shape, kernel=SquaredEuclidean(scale=len(shape) / 6))
    plan = SinkhornGrid(kernel=grid, epsilon=share, tolerance=1e-8).solve_images(a, b)
    assert plan.status == ("converged",)
    assert true_error(grid, share, a, b, plan) <= 1.01e-8
    assert float(plan.marginal_error) <= 1e-8


@pytest.mark.parametrize("kernel", [Gaussian(0.3), Laplacian(scale=0.2, norm="l1")], ids=["l2", "l1"])
def test_is_the_plan_of_pot(kernel):
    a, b = blobs(11, 8), blobs(11, 8, seed=1)
    grid = Grid((11, 8), kernel=kernel)
    cost = -kernel.log_kernel(grid.points(), grid.points()).numpy()
    weights = a.flatten().numpy(), b.flatten().numpy()
    theirs = ot.sinkhorn(*weights, cost, 0.1, method="sinkhorn_log", stopThr=1e-13, numItermax=20_000)
    plan = SinkhornGrid(kernel=grid, epsilon=0.1, tolerance=1e-11).solve_images(a, b)
    np.testing.assert_allclose(plan.plan(), theirs, rtol=0, atol=1e-11)
    assert float(plan.cost) == pytest.approx((theirs * cost).sum(), rel=1e-9)
    general = Sinkhorn(kernel=kernel, epsilon=0.1, tolerance=1e-11).solve(
        grid.points(), grid.points(), a=a.flatten(), b=b.flatten()
    )
    assert float(plan.value) == pytest.approx(float(general.value), rel=1e-9)


def test_the_general_solver_takes_the_operator_of_a_grid_through_its_newton_steps():
    torch.manual_seed(0)
    grid, (a, b) = Grid((12, 9), kernel=Gaussian(0.7)), torch.rand(2, 108, dtype=F64).softmax(-1)
    solver = Sinkhorn(epsilon=0.002, tolerance=1e-11)
    plan = solver.solve_operator(grid.operator(like=a.reshape(12, 9), epsilon=0.002), a=a, b=b)
    points = grid.points()
    dense = attrs.evolve(solver, kernel=grid.kernel).solve(points, points, a=a, b=b)
    assert plan.status == dense.status == ("converged",)
    torch.testing.assert_close(plan.plan(), dense.plan(), rtol=0, atol=1e-11)
    torch.testing.assert_close(plan.value, dense.value, rtol=1e-10, atol=0)


def test_gaussians_have_the_cross_covariance_of_the_closed_form():
    """Janati et al. 2020, thm. 1: for the cost |x − y|² and ε = 2σ², Cov(x, y) = ½ (√(4 s²t² + σ⁴) − σ²)."""
    grid = Grid((400,), kernel=SquaredEuclidean(scale=1.0))
    x, s, t, epsilon = grid.points()[:, 0], 0.04, 0.06, 0.004
    a, b = (torch.softmax(-(x - mean).square() / (2 * std**2), 0) for mean, std in ((0.4, s), (0.55, t)))
    plan = SinkhornGrid(kernel=grid, epsilon=epsilon, tolerance=1e-10).solve_images(a, b)
    covariance = float((x - 0.4) @ plan.matvec(x - 0.55))
    sigma = epsilon / 2
    assert covariance == pytest.approx((math.sqrt(4 * s**2 * t**2 + sigma**2) - sigma) / 2, rel=1e-6)
    assert float(plan.cost) == pytest.approx(0.15**2 + s**2 + t**2 - 2 * covariance, rel=1e-8)


@pytest.mark.parametrize(("share", "most"), [(0.01, 45), (0.001, 110)])
def test_takes_tens_of_products_where_sinkhorn_takes_a_thousand(share, most):
    a, b = blobs(64, 64), blobs(64, 64, seed=1, count=6)
    operator = Grid((64, 64), kernel=SquaredEuclidean(scale=1 / 3)).operator(epsilon=share)
    plan = SinkhornGrid(tolerance=1e-6).solve_operator(operator, a=a.flatten(), b=b.flatten())
    assert plan.status == ("converged",)
    assert plan.matvecs <= most
    rows = operator.log_matvec(b.flatten().log() + plan.g / share) + a.flatten().log() + plan.f / share
    columns = operator.log_rmatvec(a.flatten().log() + plan.f / share) + b.flatten().log() + plan.g / share
    assert float((rows.exp() - a.flatten()).abs().sum()) <= 1e-6
    assert float((columns.exp() - b.flatten()).abs().sum()) <= 1e-6


def test_dark_pixels_and_batches():
    a, b = (
        torch.stack([blobs(12, 10, seed=i) for i in range(3)]),
        torch.stack([blobs(12, 10, seed=i) for i in (5, 6, 7)]),
    )
    a[0, :5] = 0
    b[1, :, 7:] = 0
    b[2] = 0
    b[2, 3, 4] = 1.0
    a, b = (images / images.sum((1, 2), keepdim=True) for images in (a, b))
    grid = Grid((12, 10), kernel=Gaussian(0.4))
    solver = SinkhornGrid(kernel=grid, epsilon=0.02, tolerance=1e-12)
    together = solver.solve_images(a, b)
    assert together.status == ("converged",) * 3
    for i in range(3):
        alone = solver.solve(grid.points(), grid.points(), a=a[i].flatten(), b=b[i].flatten())
        torch.testing.assert_close(together.plan()[i], alone.plan(), rtol=0, atol=1e-12)
        assert float((alone.plan().sum(0) - b[i].flatten()).abs().sum()) <= 1e-9
        assert alone.f.isfinite().all()
        assert alone.g.isfinite().all()
    torch.testing.assert_close(alone.barycentric_map(), grid.points()[34].expand(120, 2))


def test_a_batch_of_several_epsilons_is_solved_in_groups():
    a, b = (torch.stack([blobs(24, 20, seed=i) for i in seeds]) for seeds in ((0, 1, 2), (5, 6, 7)))
    epsilon = torch.tensor([0.05, 0.02, 0.05], dtype=F64)
    operator = Grid((24, 20), kernel=Gaussian(0.4)).operator(like=a, epsilon=epsilon)
    together = SinkhornGrid(tolerance=1e-11).solve_operator(operator, a=a.flatten(1), b=b.flatten(1))
    assert together.status == ("converged",) * 3
    for i in range(3):
        general = Sinkhorn(kernel=Gaussian(0.4), epsilon=float(epsilon[i]), tolerance=1e-11)
        points = Grid((24, 20)).points()
        alone = general.solve(points, points, a=a[i].flatten(), b=b[i].flatten())
        torch.testing.assert_close(together.plan()[i], alone.plan(), rtol=0, atol=1e-11)


def test_the_smooth_part_of_a_coarse_inverse_and_the_diagonal_invert_the_hessian():
    level = levels_of(
        Grid((8, 8), kernel=Gaussian(0.3)).operator(), *(blobs(8, 8, seed=i).flatten() for i in (0, 1)), smallest=64
    )[0]
    state = solve_dense(level, log_kernel_of(level), 0.1, torch.zeros_like(level.b), 1e-6).state
    hessian = state.columns.diag() - state.conditional.T @ (level.a[:, None] * state.conditional)
    right = state.columns * torch.linspace(-1, 1, 64, dtype=F64)
    right = right - state.columns * right.sum()  # what the range of the Hessian holds: of sum 0
    solved = right / state.columns + (state.smooth_inverse().double() @ right)
    torch.testing.assert_close(hessian @ solved, right, rtol=0, atol=1e-3 * float(right.abs().max()))


def test_float32_stays_float32_and_a_start_is_used():
    a, b = blobs(20, 20), blobs(20, 20, seed=1)
    solver = SinkhornGrid(kernel=Grid((20, 20), kernel=Gaussian(0.4)), epsilon=0.02, tolerance=1e-5)
    single, double = solver.solve_images(a.float(), b.float()), solver.solve_images(a, b)
    assert single.f.dtype == single.value.dtype == torch.float32
    assert single.status == ("converged",)
    assert float(single.value) == pytest.approx(float(double.value), rel=1e-4)
    again = solver.solve_images(a, b, init=double)
    assert again.matvecs <= 8
    torch.testing.assert_close(again.value, double.value)


def test_the_default_epsilon_is_that_of_sinkhorn_and_gradients_are_those_of_the_envelope():
    a, b = blobs(9, 8), blobs(9, 8, seed=1)
    grid = Grid((9, 8), kernel=Gaussian(0.4))
    attached = a.clone().requires_grad_()
    plan = SinkhornGrid(kernel=grid, tolerance=1e-10).solve_images(attached, b)
    points = grid.points()
    other = Sinkhorn(kernel=Gaussian(0.4), tolerance=1e-10).solve(points, points, a=a.flatten(), b=b.flatten())
    torch.testing.assert_close(plan.epsilon, other.epsilon)
    (gradient,) = torch.autograd.grad(plan.value, attached)
    difference = gradient.flatten() - plan.f
    torch.testing.assert_close(difference, difference.mean().expand(72), rtol=0, atol=1e-8)


def test_coarse_levels_keep_the_mass_and_interpolation_keeps_lines():
    operator = Grid((21, 12), kernel=Gaussian(0.4)).operator()
    a = blobs(21, 12).flatten()
    levels = levels_of(operator, a, a, smallest=16)
    assert [level.sides[0] for level in levels] == [(3, 3), (6, 3), (11, 6), (21, 12)]
    for coarse, fine in itertools.pairwise(levels):
        torch.testing.assert_close(coarse.a.sum(), a.sum())
        lines = [sum(torch.meshgrid(*level.places[1], indexing="ij")).flatten() for level in (coarse, fine)]
        torch.testing.assert_close(apply_axes(fine.prolongation(coarse, extrapolate=True), lines[0]), lines[1])


def test_is_a_solver_found_by_name():
    solver = atlas_core.build("solver", "sinkhorn-grid", epsilon=0.1, kernel=Gaussian(0.3))
    assert isinstance(solver, Solver)
    assert pickle.loads(pickle.dumps(solver)) == solver  # noqa: S301 - our own bytes
    assert isinstance(solver.solve_images(blobs(6, 5), blobs(6, 5, seed=1)), EntropicSolution)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.solve_images(blobs(5, 4), blobs(4, 5)), "one shape"),
        (lambda s: s.solve_images(blobs(5, 4), 2 * blobs(5, 4)), "mass"),
        (lambda s: s.solve_images(-blobs(5, 4), blobs(5, 4)), "negative"),
        (lambda s: s.solve_operator(Grid((5, 4), kernel=Cauchy()).operator()), "use the solver `sinkhorn`"),
        (lambda s: s.solve(blobs(5, 2), blobs(5, 2)), "use the solver `sinkhorn`"),
    ],
)
def test_bad_input_is_told_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call(SinkhornGrid(kernel=Gaussian(0.3), epsilon=0.1))


def test_threads_are_as_many_after_a_solve_as_before() -> None:
    before, image = torch.get_num_threads(), torch.rand(8, 8, dtype=torch.float64)
    try:
        torch.set_num_threads(3)
        SinkhornGrid(kernel=SquaredEuclidean(), epsilon=0.05).solve_images(image / image.sum(), image.T / image.sum())
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
