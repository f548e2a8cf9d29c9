"""Operators on grids against the kernel's own matrix of all pairs, in float64, at every ε."""

from __future__ import annotations

import math
import pickle

import attrs
import pytest
import torch
from atlas_kernels_builtin.grids.fft import StationaryOperator
from atlas_kernels_builtin.grids.grid import Grid
from atlas_kernels_builtin.grids.separable import SeparableOperator
from atlas_kernels_builtin.kernels.cauchy import Cauchy
from atlas_kernels_builtin.kernels.energy import Energy
from atlas_kernels_builtin.kernels.laplacian import Laplacian
from atlas_kernels_builtin.kernels.matern import Matern
from atlas_kernels_builtin.kernels.products import Product
from atlas_kernels_builtin.kernels.squared_euclidean import SquaredEuclidean
from atlas_kernels_builtin.operators import operator_of

import atlas_core
from atlas_core.contracts import Kernel, KernelOperator
from atlas_kernels_builtin import Gaussian

F64 = torch.float64
SEPARABLE = {
    "gaussian": Gaussian(0.4),
    "squared-euclidean": SquaredEuclidean(),
    "laplacian-l1": Laplacian(scale=0.3, norm="l1"),
    "product": Product(kernels=[Gaussian(0.4), Laplacian(scale=0.5, norm="l1")]),
}
STATIONARY = {
    "laplacian-l2": Laplacian(scale=0.3),
    "matern": Matern(nu=1.5, scale=0.4),
    "cauchy": Cauchy(scale=0.4),
    "product": Product(kernels=[Gaussian(0.4), Cauchy(scale=0.5)]),
}
SHAPES = [(11,), (6, 9), (3, 5, 4)]


def vector(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64) * scale


def log_matrix(grid, epsilon):
    points = grid.points()
    return grid.fitted().kernel.log_kernel(points, points) / epsilon


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", SEPARABLE)
@pytest.mark.parametrize("epsilon", [1.0, 1e-2, 1e-5])
def test_a_separable_operator_is_the_matrix_of_all_pairs(name, shape, epsilon):
    grid = Grid(shape, kernel=SEPARABLE[name])
    operator = grid.operator(epsilon=epsilon)
    assert isinstance(operator, SeparableOperator)
    assert isinstance(operator, KernelOperator)
    log_k = log_matrix(grid, epsilon)
    n = len(log_k)
    v, far = vector(n, 2), vector(n, scale=10 / epsilon)
    torch.testing.assert_close(operator.dense(), log_k.exp(), rtol=1e-10, atol=1e-300)
    torch.testing.assert_close(operator.matvec(v), log_k.exp() @ v, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(operator.rmatvec(v[:, 0]), log_k.exp().T @ v[:, 0], rtol=1e-10, atol=1e-12)
    # Logarithms of thousands and more carry fifteen digits of that, not of one.
    span = 1e-14 * float(far.abs().max() + log_k.abs().max())
    torch.testing.assert_close(operator.log_matvec(far), (log_k + far).logsumexp(1), rtol=0, atol=span)
    torch.testing.assert_close(operator.log_rmatvec(far), (log_k.T + far).logsumexp(1), rtol=0, atol=span)
    torch.testing.assert_close(operator.sums()[0], log_k.exp().sum(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(operator.log_rows(torch.tensor([2, 0])), log_k[[2, 0]], rtol=1e-12, atol=1e-12 / epsilon)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("epsilon", [1.0, 1e-2, 1e-5])
def test_scalings_of_a_thousand_nats_do_not_overflow(shape, epsilon):
    grid = Grid(shape, kernel=Gaussian(0.4))
    operator = grid.operator(epsilon=epsilon)
    log_k = log_matrix(grid, epsilon)
    n = len(log_k)
    right = vector(n, scale=10 / epsilon)
    right[3] = -torch.inf
    left = vector(n, seed=1) - (log_k + right).logsumexp(1)
    expected = (left[:, None] + log_k + right).exp()
    rounding = 1e-14 * float(left.abs().max())
    scaled, v = operator.scaled(left, right), vector(n, 3, seed=2)
    for got, truth in (
        (scaled.matvec(v), expected @ v),
        (scaled.rmatvec(v), expected.T @ v),
        (scaled.matvec(v[:, 0]), expected @ v[:, 0]),
        (scaled.sums()[0], expected.sum(1)),
        (scaled.sums()[1], expected.sum(0)),
        (scaled.dense(), expected),
        (scaled.scaled(-left, -left * 0).sums()[0], (log_k + right).exp().sum(1)),
    ):
        torch.testing.assert_close(got, truth, rtol=max(1e-11, 10 * rounding), atol=max(1e-12, rounding))
    cost = -log_k * epsilon
    inner = torch.where(expected > 0, expected * cost, 0.0).sum()
    torch.testing.assert_close(operator.cost_inner(left, right), inner, rtol=max(1e-10, 10 * rounding), atol=1e-14)
    torch.testing.assert_close(
        scaled.log_matvec(v[:, 0]), (left[:, None] + log_k + right + v[:, 0]).logsumexp(1), rtol=1e-12, atol=rounding
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_mean_cost_is_that_of_all_pairs(shape):
    grid = Grid(shape, kernel=SquaredEuclidean(scale=0.3))
    a, b = (torch.softmax(vector(2, math.prod(shape), seed=seed), -1) * 3 for seed in (0, 1))
    operator = grid.operator(like=a.reshape(2, *shape), epsilon=0.1)
    expected = torch.einsum("bn,nm,bm->b", a, -log_matrix(grid, 1.0), b) / 9
    torch.testing.assert_close(operator.mean_cost(a, b), expected)
    torch.testing.assert_close(
        operator.with_epsilon(0.5).log_matvec(a), grid.operator(like=a.reshape(2, *shape), epsilon=0.5).log_matvec(a)
    )


def test_rows_are_normalised_for_the_price_of_their_sums():
    grid, right = Grid((6, 5), kernel=Gaussian(0.2)), vector(30, scale=300.0)
    log_k = log_matrix(grid, 1e-3)
    log_sums, conditional = grid.operator(epsilon=1e-3).row_normalised(right)
    torch.testing.assert_close(log_sums, (log_k + right).logsumexp(1), rtol=1e-14, atol=0)
    torch.testing.assert_close(conditional.sums()[0], torch.ones(30, dtype=F64), rtol=1e-12, atol=0)
    expected = (log_k + right).softmax(1)
    torch.testing.assert_close(conditional.matvec(right), expected @ right, rtol=1e-11, atol=0)
    torch.testing.assert_close(conditional.rmatvec(right), expected.T @ right, rtol=1e-11, atol=1e-9)
    weights = vector(30, seed=5).square()
    for product in (conditional.gram(right, weights), conditional.gram_of(weights)(right)):
        torch.testing.assert_close(product, expected.T @ (weights * (expected @ right)), rtol=1e-11, atol=1e-9)


def test_products_in_float32_are_as_good_as_float32():
    grid = Grid((12, 10), kernel=Gaussian(0.3))
    operator = grid.operator(epsilon=0.1)
    log_k, right = log_matrix(grid, 0.1), vector(120, scale=50.0)
    left = -(log_k + right).logsumexp(1)
    expected, v = (left[:, None] + log_k + right).exp(), vector(120, seed=3)
    scaled = operator.scaled(left, right, storage=torch.float32)
    assert float((scaled.matvec(v) - expected @ v).abs().max()) > 1e-10  # it is float32
    torch.testing.assert_close(scaled.matvec(v), expected @ v, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scaled.rmatvec(v), expected.T @ v, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scaled.sums()[1], expected.sum(0), rtol=1e-11, atol=1e-13)
    single = grid.operator(epsilon=0.1, like=torch.zeros(12, 10))
    assert single.matvec(v.float()).dtype == torch.float32
    torch.testing.assert_close(
        single.log_matvec(right.float()), (log_k + right).logsumexp(1).float(), rtol=1e-6, atol=1e-4
    )
    estimate = single.error_estimate(probes=40)
    assert 1e-9 < estimate.value <= estimate.high < 1e-6


@pytest.mark.parametrize("shape", [(6, 9), (3, 5, 4)], ids=str)
@pytest.mark.parametrize("name", STATIONARY)
@pytest.mark.parametrize("epsilon", [1.0, 0.05, 1e-4])
def test_a_stationary_kernel_is_a_convolution(name, shape, epsilon):
    grid = Grid(shape, kernel=STATIONARY[name])
    operator = grid.operator(epsilon=epsilon)
    assert isinstance(operator, StationaryOperator)
    assert isinstance(operator, KernelOperator)
    log_k = log_matrix(grid, epsilon)
    k, n = log_k.exp(), len(log_k)
    v, far = vector(n, 2), vector(n, scale=30.0)
    torch.testing.assert_close(operator.matvec(v), k @ v, rtol=0, atol=1e-12)
    torch.testing.assert_close(operator.rmatvec(v[:, 0]), k.T @ v[:, 0], rtol=0, atol=1e-12)
    for got, truth in (
        (operator.log_matvec(far), (log_k + far).logsumexp(1)),
        (operator.log_rmatvec(far), (log_k.T + far).logsumexp(1)),
        (operator.log_rmatvec(v[:, 0]), (log_k.T + v[:, 0]).logsumexp(1)),
    ):
        torch.testing.assert_close(got, truth, rtol=0, atol=2e-9)
    torch.testing.assert_close(operator.dense(), k, rtol=1e-11, atol=1e-300)
    torch.testing.assert_close(
        operator.scaled(far, -far).dense(), (far[:, None] + log_k - far).exp(), rtol=1e-10, atol=0
    )
    inner = (k * -log_k * epsilon).sum()
    torch.testing.assert_close(operator.cost_inner(far * 0, far * 0), inner, rtol=1e-11, atol=1e-300)
    assert operator.error_estimate(probes=20).high < 1e-13


@attrs.frozen
class Drift:
    """Stationary, positive, and not symmetric: k(x, y) ≠ k(y, x)."""

    has_log = True
    item_ndim = 1

    def log_kernel(self, x, y):
        return -torch.cdist(x + x.new_tensor([0.3, 0.1]), y)


def test_the_transpose_of_a_kernel_that_is_not_symmetric():
    grid = Grid((7, 5), kernel=Drift())
    operator, log_k, v = grid.operator(epsilon=0.1), log_matrix(grid, 0.1), vector(35)
    assert isinstance(operator, StationaryOperator)
    torch.testing.assert_close(operator.matvec(v), log_k.exp() @ v, rtol=0, atol=1e-13)
    torch.testing.assert_close(operator.rmatvec(v), log_k.exp().T @ v, rtol=0, atol=1e-13)
    torch.testing.assert_close(operator.log_rmatvec(40 * v), (log_k.T + 40 * v).logsumexp(1), rtol=0, atol=2e-9)


def test_a_signed_kernel_has_products_and_no_logarithm():
    grid = Grid((8, 5), kernel=Energy())
    operator, points, v = grid.operator(), grid.points(), vector(40, 2)
    assert not operator.positive
    torch.testing.assert_close(operator.matvec(v), Energy().block(points, points) @ v, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="signed"):
        operator.log_matvec(v[:, 0])
    with pytest.raises(ValueError, match="ε = 1"):
        grid.operator(epsilon=0.5)


@pytest.mark.parametrize("kernel", [Gaussian(0.4), Cauchy(scale=0.4)], ids=["separable", "stationary"])
def test_each_problem_of_a_batch_is_its_own(kernel):
    grid = Grid((5, 4), kernel=kernel)
    epsilon = torch.tensor([1.0, 0.1, 0.01], dtype=F64)
    operator = grid.operator(like=torch.zeros(3, 5, 4, dtype=F64), epsilon=epsilon)
    assert operator.batch_shape == (3,)
    v, w = vector(3, 20), vector(3, 20, 2)
    left = -operator.log_matvec(v)
    for i in range(3):
        alone = grid.operator(epsilon=float(epsilon[i]))
        for method in ("matvec", "rmatvec"):
            torch.testing.assert_close(
                getattr(operator, method)(w)[i], getattr(alone, method)(w[i]), rtol=1e-9, atol=1e-13
            )
        torch.testing.assert_close(operator.log_matvec(v)[i], alone.log_matvec(v[i]))
        torch.testing.assert_close(operator.log_rmatvec(v)[i], alone.log_rmatvec(v[i]))
        torch.testing.assert_close(operator.cost_inner(left, v)[i], alone.cost_inner(left[i], v[i]))
        torch.testing.assert_close(operator.scaled(left, v).matvec(w)[i], alone.scaled(left[i], v[i]).matvec(w[i]))
        torch.testing.assert_close(operator.scaled(left, v).rmatvec(w)[i], alone.scaled(left[i], v[i]).rmatvec(w[i]))


@pytest.mark.parametrize("kernel", [Gaussian(0.4), Cauchy(scale=0.4)], ids=["separable", "stationary"])
def test_the_gradient_by_epsilon_is_that_of_the_matrix(kernel):
    grid, v = Grid((5, 4), kernel=kernel), vector(20)
    epsilon = torch.tensor(0.3, dtype=F64, requires_grad=True)
    (got,) = torch.autograd.grad(grid.operator(epsilon=epsilon).log_matvec(v).sum(), epsilon)
    (truth,) = torch.autograd.grad((log_matrix(grid, epsilon) + v).logsumexp(1).sum(), epsilon)
    torch.testing.assert_close(got, truth, rtol=1e-9, atol=0)


def test_is_found_by_name_and_answers_for_points():
    grid = atlas_core.build("kernel", "grid", shape=(4, 3), kernel=Gaussian(0.4))
    assert grid == Grid((4, 3), kernel=Gaussian(0.4))
    assert isinstance(grid, Kernel)
    assert pickle.loads(pickle.dumps(grid)) == grid  # noqa: S301 - our own bytes
    points, new = grid.points(), vector(6, 2)
    torch.testing.assert_close(points[1] - points[0], torch.tensor([0.0, 0.25], dtype=F64))  # square cells
    assert isinstance(operator_of(grid, points.float(), points.float(), epsilon=0.1), SeparableOperator)
    out_of_sample = operator_of(grid, new, points, epsilon=0.1)
    torch.testing.assert_close(out_of_sample.dense(), (Gaussian(0.4).log_kernel(new, points) / 0.1).exp())
    stretched = Grid((4, 3), kernel=Gaussian(0.4), extent=(4.0, 6.0)).points()
    assert stretched.amax(0).tolist() == [3.5, 5.0]


@attrs.frozen
class Dot:
    """Neither a sum over axes nor stationary."""

    has_log = True
    item_ndim = 1

    def log_kernel(self, x, y):
        return -((x @ y.T) ** 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Grid((4, 0)), "shape"),
        (lambda: Grid((4, 4), extent=(1.0,)), "extent"),
        (lambda: Grid((4, 3), kernel=Dot()).operator(), "neither a sum over the axes nor a function of x − y"),
        (lambda: Grid((4, 3)).operator(epsilon=0.0), "epsilon"),
        (lambda: Grid((4, 3)).operator(like=torch.zeros(3, 4)), r"\(\*batch, 4, 3\)"),
        (lambda: Grid((4, 3)).operator(like=torch.zeros(4, 3, dtype=torch.uint8)), "floating point"),
        (lambda: Grid((4, 3)).operator(vector(12, 2), vector(12, 2)), r"not those of the grid of shape \(4, 3\)"),
        (lambda: Grid((4, 3)).operator().matvec(vector(11)), r"\(12,\)"),
        (lambda: Grid((4, 3)).operator().log_matvec(vector(12, 2)), r"\(12,\)"),
    ],
)
def test_bad_input_is_told_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
