"""Low-rank operators against the exact Gram matrix in float64: bias, error, honesty of the error, gradients."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from atlas_kernels_builtin.approximate.directions import Directions, hadamard
from atlas_kernels_builtin.approximate.features import Frequencies

import atlas_core
from atlas_core.contracts import Kernel, KernelOperator
from atlas_kernels_builtin import (
    Cauchy,
    Energy,
    Gaussian,
    InverseMultiquadric,
    Laplacian,
    Matern,
    Mixture,
    Nystroem,
    PositiveRff,
    Product,
    Rff,
    Scaled,
    SquaredEuclidean,
    Sum,
    operator_of,
)

GENERATOR = torch.Generator


def points(n, d, seed=0, dtype=torch.float64, spread=1.0):
    return torch.tensor(spread * np.random.default_rng(seed).normal(size=(n, d))).to(dtype)


def exact(kernel, x, y, epsilon=1.0):
    return (kernel.log_kernel(x.double(), y.double()) / epsilon).exp()


def error(operator, truth):
    return float((operator.dense().double() - truth).norm() / truth.norm())


def laws(d):
    """Every spectral law, with kernels about as wide as the cloud."""
    s = 1.5 * d**0.5
    return {
        "gaussian": Gaussian(s),
        "squared-euclidean": SquaredEuclidean(2.0 * d, half=True),
        "laplacian-l2": Laplacian(s),
        "laplacian-l1": Laplacian(1.5 * d, norm="l1"),
        "matern-1/2": Matern(0.5, s),
        "matern-3/2": Matern(1.5, s),
        "matern-5/2": Matern(2.5, s),
        "cauchy": Cauchy(s),
        "inverse-multiquadric": InverseMultiquadric(s),
        "sum": Sum(kernels=[Gaussian(s), Laplacian(1.5 * d, norm="l1")], weights=(2.0, 0.5)),
        "mixture": Mixture(kernel=Cauchy(s), scales=(1.0, 2.0), weights=(1.0, 2.0)),
        "product": Product(kernels=[Matern(1.5, 2 * s), Laplacian(3 * d, norm="l1")]),
        "scaled": Scaled(kernel=Cauchy(s), amplitude=2.0, power=0.7),
    }


ONLY_WHOLE = {"sum", "mixture"}  # the law of their k^(1/ε) is known where 1/ε is a whole number


def forms(make, kernel, d, epsilon, repeats, seed=0):
    """uᵀ K̂ v for some u, v and many seeds, and uᵀ K v: (repeats, 8), (8,)."""
    x, y = points(12, d, 1), points(10, d, 2)
    u, v = points(8, 12, 3), points(8, 10, 4)
    truth = torch.einsum("fi,ij,fj->f", u, exact(kernel, x, y, epsilon), v)
    dense = (make(kernel, seed + i).operator(x, y, epsilon=epsilon).dense() for i in range(repeats))
    return torch.stack([torch.einsum("fi,ij,fj->f", u, k, v) for k in dense]), truth


@pytest.mark.parametrize("d", [1, 2, 8, 128])
@pytest.mark.parametrize("name", laws(1))
@pytest.mark.parametrize("epsilon", [1.0, 0.37])
def test_the_expectation_of_random_features_is_the_kernel(name, d, epsilon):
    if epsilon == 0.37 and name in ONLY_WHOLE:
        epsilon = 0.5
    draws, truth = forms(lambda kernel, seed: Rff(kernel=kernel, features=64, seed=seed), laws(d)[name], d, epsilon, 40)
    deviations = (draws.mean(0) - truth) / (draws.std(0) / len(draws) ** 0.5)
    # Eight t statistics with 39 degrees of freedom: beyond 4.5 once in 2,000 draws of this test.
    assert deviations.abs().max() < 4.5, deviations


@pytest.mark.parametrize("d", [1, 2, 8, 128])
@pytest.mark.parametrize("name", laws(1))
def test_the_expectation_of_positive_features_is_the_kernel(name, d):
    wide = Scaled(kernel=laws(d)[name], power=1.0) if name in ONLY_WHOLE else Scaled(kernel=laws(d)[name], power=0.5)
    draws, truth = forms(lambda kernel, seed: PositiveRff(kernel=kernel, features=64, seed=seed), wide, d, 1.0, 40)
    deviations = (draws.mean(0) - truth) / (draws.std(0) / len(draws) ** 0.5)
    assert deviations.abs().max() < 4.5, deviations


@pytest.mark.parametrize("name", laws(1))
def test_the_error_of_random_features_falls_as_one_over_the_root_of_their_number(name):
    kernel, x, y = laws(8)[name], points(60, 8), points(50, 8, 1)
    truth = exact(kernel, x, y)
    few, many = (
        np.mean([error(Rff(kernel=kernel, features=features, seed=seed).operator(x, y), truth) for seed in range(5)])
        for features in (32, 512)
    )
    assert few / many == pytest.approx(4, rel=0.45)


@pytest.mark.parametrize("d", [1, 2, 5, 8, 100, 128])
def test_directions_are_orthonormal_in_blocks_and_uniform_on_the_sphere(d):
    directions = Directions.draw(3 * 128, d, GENERATOR().manual_seed(0))
    full = attrs.evolve(directions, dim=directions.size).matrix()
    for block in full.split(directions.size):
        torch.testing.assert_close(block @ block.mT, torch.eye(len(block), dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(directions.matrix(), full[:, :d])
    x = points(9, d)
    torch.testing.assert_close(directions.project(x), x @ directions.matrix().mT)


@pytest.mark.parametrize("size", [2, 4, 16])
def test_every_direction_has_the_moments_of_a_uniform_unit_vector(size):
    """E q_i² = 1/p, E q_i⁴ = 3 / (p (p + 2)), E q_i² q_j² = 1 / (p (p + 2)): what signs and Hadamard alone miss."""
    rows = torch.stack([Directions.draw(size, size, GENERATOR().manual_seed(i)).matrix() for i in range(1000)])
    squares = rows.square()
    for row in (0, size - 1):
        second, fourth = squares[:, row].mean(0), squares[:, row].square().mean(0)
        mixed = (squares[:, row, 0] * squares[:, row, -1]).mean()
        tolerance = 5 / 1000**0.5
        assert (second * size - 1).abs().max() < tolerance * 1.5
        assert (fourth * size * (size + 2) / 3 - 1).abs().max() < tolerance * 3
        assert (mixed * size * (size + 2) - 1).abs() < tolerance * 3
        assert rows[:, row].mean(0).abs().max() < tolerance / size**0.5


def test_hadamard_equals_the_matrix_of_scipy():
    from scipy.linalg import hadamard as matrix

    x = points(5, 16)
    np.testing.assert_allclose(hadamard(x), x.numpy() @ matrix(16) / 4, rtol=1e-12, atol=1e-12)


def test_beyond_the_matrix_the_transforms_say_the_same(monkeypatch):
    x, y = points(20, 40), points(15, 40, 1)
    by_matrix = Rff(kernel=Matern(1.5, 6.0), features=128).operator(x, y).dense()
    monkeypatch.setattr("atlas_kernels_builtin.approximate.features.MATRIX_DIMENSION", 8)
    torch.testing.assert_close(Rff(kernel=Matern(1.5, 6.0), features=128).operator(x, y).dense(), by_matrix)


def test_points_of_many_dimensions_need_no_matrix_of_dimension_squared():
    """p = 2¹⁷: a d × d matrix would take 80 GB."""
    d = 100_000
    x, y = points(8, d, dtype=torch.float32), points(6, d, 1, dtype=torch.float32)
    operator = Rff(kernel=Gaussian(400.0), features=2048).operator(x, y)
    assert error(operator, exact(Gaussian(400.0), x, y)) < 0.1


def test_features_depend_on_the_seed_alone():
    kernel, x, y = Laplacian(), points(9, 3), points(7, 3, 1)
    state = torch.get_rng_state()
    first, again, other = (Rff(kernel=kernel, seed=seed).operator(x, y).dense() for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    single = Rff(kernel=kernel, seed=3).operator(x.float(), y.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.dense().double(), first, rtol=0, atol=2e-4)
    assert torch.equal(torch.get_rng_state(), state)


APPROXIMATE = {
    "rff": lambda kernel, **more: Rff(kernel=kernel, features=512, **more),
    "positive-rff": lambda kernel, **more: PositiveRff(kernel=kernel, features=512, **more),
    "nystroem": lambda kernel, **more: Nystroem(kernel=kernel, landmarks=64, **more),
}


@pytest.mark.parametrize("name", APPROXIMATE)
@pytest.mark.parametrize("batch", [(), (2,), (2, 2)])
@pytest.mark.parametrize("epsilon", [0.5, "each"])
def test_every_method_equals_that_of_the_matrix_it_stands_for(name, batch, epsilon):
    n, m = 23, 17
    x, y = points(4 * n, 2).reshape(4, n, 2), points(4 * m, 2, 1).reshape(4, m, 2)
    x, y = (p[: int(np.prod(batch))].reshape(*batch, -1, 2) if batch else p[0] for p in (x, y))
    if epsilon == "each":
        epsilon = torch.linspace(0.5, 2, int(np.prod(batch)) or 1, dtype=torch.float64).reshape(batch)
    approximation = APPROXIMATE[name](Gaussian(1.5))
    operator = operator_of(approximation, x, y, epsilon=epsilon)
    k = operator.dense()
    u, v = (
        points(4 * n, 1, 2)[: int(np.prod(batch)) * n].reshape(*batch, n),
        points(4 * m, 1, 3)[: int(np.prod(batch)) * m].reshape(*batch, m),
    )
    us, vs = u[..., None] * torch.ones(4, dtype=torch.float64), v[..., None] * torch.arange(4, dtype=torch.float64)
    close = {"rtol": 1e-9, "atol": 1e-12}

    assert isinstance(operator, KernelOperator)
    assert isinstance(approximation, Kernel) or name != "positive-rff"
    assert (operator.shape, operator.batch_shape, operator.dtype) == ((n, m), batch, torch.float64)
    one = (0,) * len(batch)
    number = float(epsilon[one]) if isinstance(epsilon, torch.Tensor) else epsilon
    torch.testing.assert_close(operator_of(approximation, x[one], y[one], epsilon=number).dense(), k[one], **close)
    torch.testing.assert_close(operator.matvec(v), (k @ v[..., None])[..., 0], **close)
    torch.testing.assert_close(operator.matvec(vs), k @ vs, **close)
    torch.testing.assert_close(operator.rmatvec(u), (k.mT @ u[..., None])[..., 0], **close)
    torch.testing.assert_close(operator.rmatvec(us), k.mT @ us, **close)
    assert operator.matvec(v.float()).dtype == torch.float32
    for got, wanted in zip(operator.sums(), (k.sum(-1), k.sum(-2)), strict=True):
        torch.testing.assert_close(got, wanted, **close)
    scaling = (u[..., :, None] + v[..., None, :]).exp()
    scaled = operator.scaled(u, v)
    torch.testing.assert_close(scaled.dense(), scaling * k, **close)
    torch.testing.assert_close(scaled.matvec(vs), (scaling * k) @ vs, **close)
    torch.testing.assert_close(scaled.scaled(-u, -v).dense(), k, **close)
    truth = torch.stack([exact(Gaussian(1.5), *p) for p in zip(x.reshape(-1, n, 2), y.reshape(-1, m, 2), strict=True)])
    truth = truth.reshape(k.shape) ** (1 / torch.as_tensor(epsilon, dtype=torch.float64)[..., None, None])
    for got, matrix in ((operator, truth), (scaled, truth * scaling)):
        assert got.error_estimate().value == pytest.approx(error(got, matrix), rel=1e-6)
    methods = [lambda: operator.log_matvec(v), lambda: operator.log_rmatvec(u), lambda: operator.cost_inner(u, v)]
    if name != "positive-rff":
        assert not operator.positive
        for method in [*methods, lambda: operator.log_rows(torch.tensor([0]))]:
            with pytest.raises(ValueError, match=r"Use `positive-rff`, or the kernel itself, which is exact"):
                method()
        return
    assert operator.positive
    torch.testing.assert_close(methods[0](), (k.log() + v[..., None, :]).logsumexp(-1), **close)
    torch.testing.assert_close(methods[1](), (k.log() + u[..., :, None]).logsumexp(-2), **close)
    torch.testing.assert_close(operator.log_rows(torch.tensor([5, 0, 5])), k.log()[..., [5, 0, 5], :], **close)
    cost = -k.log() * torch.as_tensor(epsilon, dtype=torch.float64)[..., None, None]
    torch.testing.assert_close(methods[2](), (scaling * k * cost).sum((-1, -2)), **close)
    torch.testing.assert_close(scaled.cost_inner(0 * u, 0 * v), (scaling * k * cost).sum((-1, -2)), **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_positive_features_neither_overflow_nor_vanish_at_a_small_epsilon(dtype):
    x, y = points(40, 2, dtype=dtype, spread=3.0), points(30, 2, 1, dtype=dtype, spread=3.0)
    operator = PositiveRff(features=256).operator(x, y, epsilon=1e-3)
    logs = operator.log_rows(torch.arange(40))
    reference = PositiveRff(features=256).operator(x.double(), y.double(), epsilon=1e-3)
    wanted = (reference.left[:, None] + reference.right).logsumexp(-1)
    torch.testing.assert_close(logs.double(), wanted, rtol=2e-4 if dtype == torch.float32 else 1e-10, atol=1e-8)
    assert wanted.min() < -3000  # far below what a product in float64 holds
    f, g = -operator.log_matvec(torch.zeros(30, dtype=dtype)), torch.zeros(30, dtype=dtype)
    assert f.max() > 300
    plan = operator.scaled(f, g)
    torch.testing.assert_close(plan.sums()[0], torch.ones(40, dtype=dtype), rtol=2e-3, atol=0)
    off = torch.full((30,), -torch.inf, dtype=dtype)
    assert operator.scaled(f, off).matvec(torch.ones(30, dtype=dtype)).abs().max() == 0
    assert operator.log_matvec(off).isneginf().all()


def test_sinkhorn_on_positive_features_solves_the_problem_of_its_own_kernel():
    x, y = points(60, 2), points(50, 2, 1) + 0.5
    approximation = PositiveRff(kernel=SquaredEuclidean(2.0), features=2000)
    plan = atlas_core.build("solver", "sinkhorn", kernel=approximation, epsilon=0.5, tolerance=1e-8).solve(x, y)
    k = approximation.operator(x, y, epsilon=0.5).dense()
    u = torch.ones(60, dtype=torch.float64)
    for _ in range(500):
        v = 1 / (50 * (k.mT @ u))
        u = 1 / (60 * (k @ v))
    torch.testing.assert_close(plan.plan(), u[:, None] * k * v, rtol=1e-5, atol=1e-10)
    truth = atlas_core.build("solver", "sinkhorn", kernel=SquaredEuclidean(2.0), epsilon=0.5, tolerance=1e-8).solve(
        x, y
    )
    assert float(plan.value) == pytest.approx(float(truth.value), rel=0.05)


@pytest.mark.parametrize("name", ["rff", "nystroem"])
def test_scaling_solvers_refuse_what_may_be_negative(name):
    with pytest.raises(
        ValueError, match=r"Use `gaussian`, or any kernel with has_log.*of approximations `positive-rff`"
    ):
        atlas_core.build("solver", "sinkhorn", kernel=APPROXIMATE[name](Gaussian()), epsilon=1.0).solve(
            points(9, 2), points(9, 2, 1)
        )


METHODS = ["rp-cholesky", "k-means++", "uniform"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kernel", [Gaussian(0.5), Laplacian(), Matern(2.5, 0.5), Cauchy(), Laplacian(norm="l1")])
def test_nystroem_is_exact_where_all_points_are_landmarks(method, kernel):
    x, y = points(40, 3), points(30, 3, 1)
    operator = Nystroem(kernel=kernel, landmarks=70, method=method).operator(x, y, epsilon=0.7)
    assert error(operator, exact(kernel, x, y, 0.7)) < 1e-9


def test_nystroem_takes_signed_kernels():
    x, y = points(40, 3), points(30, 3, 1)
    operator = Nystroem(kernel=Energy(), landmarks=70).operator(x, y)
    torch.testing.assert_close(operator.dense(), Energy().block(x, y), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"k-means\+\+"):
        Nystroem(kernel=Energy(), landmarks=20).operator(x, y)
    half = Nystroem(kernel=Energy(), landmarks=35, method="k-means++").operator(x, y)
    assert error(half, Energy().block(x, y)) < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_nystroem_reaches_the_best_error_of_its_rank_but_for_a_factor(method, dtype):
    x = points(400, 2)
    truth = exact(Gaussian(), x, x)
    values = torch.linalg.eigvalsh(truth).flip(0)
    best = float(values[48:].square().sum().sqrt() / values.norm())
    x = x.to(dtype)
    errors = [error(Nystroem(landmarks=48, method=method, seed=s).operator(x, x), truth) for s in range(5)]
    factor = {"rp-cholesky": 15, "k-means++": 60, "uniform": 300}[method]
    assert best <= min(errors) * 1.001
    assert np.median(errors) < factor * best


def test_rp_cholesky_finds_the_few_points_that_uniform_misses():
    """A dense cluster and ten lonely points: what Chen et al. draw in figure 1."""
    x = torch.cat([0.01 * points(2000, 2), 50 * points(10, 2, 1)])
    truth = exact(Gaussian(), x, x)
    errors = {
        method: np.mean([error(Nystroem(landmarks=20, method=method, seed=s).operator(x, x), truth) for s in range(5)])
        for method in ("rp-cholesky", "uniform")
    }
    assert errors["rp-cholesky"] < 1e-6
    assert errors["uniform"] > 1e-4


def test_float32_points_get_an_error_of_float32_and_no_more_columns_than_that_takes():
    x, y = points(1500, 2), points(1000, 2, 1)
    operator = Nystroem(landmarks=400).operator(x.float(), y.float())
    assert operator.rank < 200
    assert error(operator, exact(Gaussian(), x.float(), y.float())) < 1e-6


@pytest.mark.parametrize("batch", [False, True])
def test_where_rounding_may_cost_more_the_kernels_of_landmarks_stay_as_they_are(batch):
    """A M Bᵀ with M = K(z, z)⁻¹, in float32: every method is that of the matrix, which is the one of float64."""
    x, y = points(600, 3, dtype=torch.float32), points(500, 3, 1, dtype=torch.float32)
    if batch:
        x, y = x.reshape(2, 300, 3), y.reshape(2, 250, 3)
    kernel = Laplacian(2.0)
    operator = Nystroem(kernel=kernel, landmarks=50, accuracy=1e-4).operator(x, y)
    reference = Nystroem(kernel=kernel, landmarks=50).operator(x, y)
    assert operator.middle is not None
    assert reference.middle is None
    k = reference.dense().double()
    assert float((operator.dense() - k).norm() / k.norm()) < 1e-5
    u, v = points(k.shape[-2] * 3, 1, 2)[:, 0].reshape(-1, 3), points(k.shape[-1] * 3, 1, 3)[:, 0].reshape(-1, 3)
    u, v = (vector.expand(*k.shape[:-2], *vector.shape) for vector in (u, v))
    left, right = u[..., 0] * 3 + 20, v[..., 0] * 3 - 20
    scaled = (left[..., :, None] + right[..., None, :]).exp() * k
    cases = [
        (operator.matvec(v), k @ v),
        (operator.rmatvec(u), k.mT @ u),
        (operator.sums()[0], k.sum(-1)),
        (operator.sums()[1], k.sum(-2)),
        (operator.scaled(left.float(), right.float()).matvec(v), scaled @ v),
        (operator.scaled(left.float(), right.float(), storage=torch.bfloat16).rmatvec(u), scaled.mT @ u),
        (operator.entries(torch.tensor([3, 1]), torch.arange(k.shape[-1])), k[..., [3, 1], :]),
    ]
    for index, (got, wanted) in enumerate(cases):
        assert float((got - wanted).norm() / wanted.norm()) < 1e-5, index
    errors = [one.error_estimate(10**4).value for one in (operator, reference)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)


def test_gradients_pass_where_rounding_may_cost_more():
    x, y, v = points(40, 2).requires_grad_(), points(30, 2, 1), points(30, 2, 2)
    kernels = [Nystroem(kernel=Laplacian(), landmarks=12, accuracy=accuracy) for accuracy in (0.0, 1e-6)]
    got = [torch.autograd.grad(k.operator(x, y).matvec(v).square().sum(), x)[0] for k in kernels]
    torch.testing.assert_close(*got, rtol=1e-4, atol=1e-4)


def test_duplicates_and_coincident_points_are_no_trouble():
    x = points(10, 2).repeat(30, 1)
    for method in METHODS:
        operator = Nystroem(landmarks=50, method=method, seed=1).operator(x, x)
        assert operator.rank <= 10
        assert error(operator, exact(Gaussian(), x, x)) < 1e-7
    same = torch.zeros(50, 2, dtype=torch.float64)
    for name in APPROXIMATE:
        torch.testing.assert_close(
            APPROXIMATE[name](Gaussian()).operator(same, same).dense(), torch.ones(50, 50).double()
        )


def test_nystroem_compares_images_too():
    @attrs.frozen
    class Picture:
        has_log = True
        item_ndim = 3

        def log_kernel(self, x, y):
            return -torch.cdist(x.flatten(1), y.flatten(1)).square() / 50

    x = points(60, 12).reshape(60, 3, 2, 2)
    operator = operator_of(Nystroem(kernel=Picture(), landmarks=60), x[:30], x[30:])
    torch.testing.assert_close(operator.dense(), Picture().log_kernel(x[:30], x[30:]).exp(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("name", ["rff", "positive-rff", "nystroem", "nystroem-uniform"])
def test_the_error_estimate_is_honest_within_a_factor_of_two(name, heavy):
    """Also where a few lonely points carry most of the error, and equal odds would miss them."""
    x, y = points(900, 2), points(800, 2, 1)
    if heavy:
        x, y = (p / points(len(p), 1, 5).abs().clamp(min=0.05) for p in (x, y))
    base = name.removesuffix("-uniform")
    made = APPROXIMATE[base](Gaussian(), **({"method": "uniform"} if name.endswith("uniform") else {}))
    operator = made.operator(x, y)
    truth = error(operator, exact(Gaussian(), x, y))
    estimates = [operator.error_estimate(seed=seed) for seed in range(30)]
    assert all(truth / 2 <= estimate.value <= 2 * truth for estimate in estimates)
    assert sum(estimate.low <= truth <= estimate.high for estimate in estimates) >= 24
    assert operator.error_estimate(10**4).value == pytest.approx(truth, rel=1e-6)


def test_the_error_is_that_of_products_with_normal_vectors():
    x, y = points(300, 2), points(250, 2, 1)
    operator = Rff(features=256).operator(x, y)
    truth, v = exact(Gaussian(), x, y), points(250, 2000, 5)
    measured = float((operator.matvec(v) - truth @ v).norm() / (truth @ v).norm())
    assert operator.error_estimate(300).value == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("name", APPROXIMATE)
def test_gradients_pass_and_are_those_of_the_approximation(name):
    x, y, v = points(12, 2).requires_grad_(), points(10, 2, 1).requires_grad_(), points(10, 3, 2)
    make = APPROXIMATE[name]
    kernel = make(Laplacian() if name == "nystroem" else Matern(1.5, 2.0))
    centre = points(1, 2, 9)  # keeps the data-dependent centre and width where they are

    def scores(x, y):
        return kernel.operator(x, y).matvec(v)

    if name == "positive-rff":
        frozen = PositiveRff(kernel=Matern(1.5, 2.0), features=4096)
        got = torch.autograd.grad(frozen.operator(x, y).matvec(v).square().sum(), (x, y))
        truth = torch.autograd.grad((exact(Matern(1.5, 2.0), x, y) @ v).square().sum(), (x, y))
        for ours, theirs in zip(got, truth, strict=True):
            assert (ours - theirs).norm() < 0.2 * theirs.norm()
        return
    assert centre.isfinite().all()
    torch.autograd.gradcheck(scores, (x, y), eps=1e-6, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", [lambda kernel: kernel, *APPROXIMATE.values()], ids=["exact", *APPROXIMATE])
def test_gradients_pass_through_a_scale_that_is_a_mean(make):
    x, y, v = points(12, 2).requires_grad_(), points(10, 2, 1).requires_grad_(), points(10, 3, 2)

    def scores(x, y):
        return operator_of(make(SquaredEuclidean()), x, y).matvec(v)

    if make is APPROXIMATE["positive-rff"]:  # whose widths, which depend on the points, have no derivative
        made = operator_of(PositiveRff(kernel=SquaredEuclidean(), features=16384), x, y)
        got = torch.autograd.grad(made.matvec(v).square().sum(), (x, y))
        truth = torch.autograd.grad(operator_of(SquaredEuclidean(), x, y).matvec(v).square().sum(), (x, y))
        for ours, theirs in zip(got, truth, strict=True):
            assert (ours - theirs).norm() < 0.1 * theirs.norm()
        return
    torch.autograd.gradcheck(scores, (x, y), eps=1e-6, atol=1e-5, rtol=1e-4)


def test_few_landmarks_have_the_gradient_of_the_formula():
    x, y, v = points(30, 2).requires_grad_(), points(25, 2, 1), points(25, 2, 2)
    kernel = Nystroem(kernel=Laplacian(), landmarks=12, method="uniform")
    got = torch.autograd.grad(kernel.operator(x, y).matvec(v).square().sum(), x)[0]
    index = kernel._landmarks(torch.cat([x.detach(), y]), 1.0, 0.0)
    z = torch.cat([x, y])[index]
    k = [exact(Laplacian(), *pair) for pair in ((x, z), (z, z), (z, y))]
    formula = (k[0] @ torch.linalg.inv(k[1]) @ k[2] @ v).square().sum()
    torch.testing.assert_close(got, torch.autograd.grad(formula, x)[0], rtol=1e-8, atol=1e-8)


def test_the_scale_that_is_a_mean_is_fitted_inside():
    x, y = points(40, 2), points(30, 2, 1)
    number = SquaredEuclidean().fitted(x, y)
    for name in APPROXIMATE:
        got = operator_of(APPROXIMATE[name](SquaredEuclidean()), x, y, epsilon=0.5).dense()
        torch.testing.assert_close(got, APPROXIMATE[name](number).operator(x, y, epsilon=0.5).dense())


def test_a_stranger_offers_a_spectral_law_of_its_own():
    @attrs.frozen
    class TwoWidths:
        """½ exp(−r²) + ½ exp(−4r²)."""

        has_log = True
        item_ndim = 1

        def log_kernel(self, x, y):
            squared = torch.cdist(x, y).square()
            return torch.stack([-squared, -4 * squared]).logsumexp(0) - np.log(2)

        def gaussian_rates(self, count, dim, *, epsilon, generator):
            return 1.0 + 3 * torch.randint(2, (count,), generator=generator).double()

    x, y = points(40, 3, spread=0.3), points(30, 3, 1, spread=0.3)
    assert error(Rff(kernel=TwoWidths(), features=20000).operator(x, y), exact(TwoWidths(), x, y)) < 0.02


@attrs.frozen
class Window:
    has_log = True
    item_ndim = 1

    def log_kernel(self, x, y):
        return -(torch.cdist(x, y) ** 1.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: Rff(kernel=Window()).operator(x, x), "Window does not say its spectral law.*nystroem"),
        (lambda x: PositiveRff(kernel=Window()).operator(x, x), "Window does not say its spectral law.*nystroem"),
        (lambda x: Rff(kernel=Mixture()).operator(x, x, epsilon=0.3), "mixture: .*whole number.*nystroem"),
        (lambda x: Rff(kernel=Energy()), "Energy is a signed kernel.*nystroem"),
        (lambda x: PositiveRff(kernel=Energy()), "Energy is a signed kernel.*nystroem"),
        (lambda x: Rff(features=7), "features must be even"),
        (lambda x: Nystroem(landmarks=0), "landmarks"),
        (lambda x: Nystroem(method="best"), "method"),
        (lambda x: Rff().operator(x, x, epsilon=torch.tensor(1.0, requires_grad=True)), "no gradient to ε"),
        (lambda x: Rff().operator(x, x[:, :1]), "different shapes"),
        (lambda x: Nystroem().operator(x, x, epsilon=0.0), "epsilon"),
        (lambda x: Nystroem().operator(x, x).matvec(x[:3, 0]), r"\(5,\)"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(points(5, 2))


def test_the_config_says_them():
    kernel = atlas_core.build("kernel", "nystroem", kernel={"use": "matern", "nu": 2.5}, landmarks=10)
    assert kernel == Nystroem(kernel=Matern(2.5), landmarks=10)
    assert atlas_core.build("kernel", "rff", features=64).kernel == Gaussian()
    assert atlas_core.build("kernel", "positive-rff", seed=3) == PositiveRff(seed=3)


def test_lengths_are_chi_so_that_each_frequency_is_normal():
    frequencies = Frequencies.draw(Gaussian(), 4000, 6, epsilon=1.0, seed=0)
    assert frequencies.directions.size == 8
    assert float(frequencies.lengths.square().mean()) == pytest.approx(8, rel=0.05)
    assert float(frequencies.lengths.square().var()) == pytest.approx(16, rel=0.15)
