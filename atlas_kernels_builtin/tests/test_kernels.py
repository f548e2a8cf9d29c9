"""Every kernel against numpy, scipy and scikit-learn in float64, and what all of them promise."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import gamma, kv
from sklearn.gaussian_process import kernels as gp
from sklearn.metrics.pairwise import laplacian_kernel, rbf_kernel

import atlas_core
from atlas_core.contracts import Kernel, RadialKernel, SpectralKernel
from atlas_kernels_builtin import (
    Cauchy,
    Energy,
    Gaussian,
    InverseMultiquadric,
    Laplacian,
    Matern,
    Mixture,
    Product,
    Scaled,
    SquaredEuclidean,
    Sum,
    operator_of,
)


def points(n, d, seed=0, dtype=torch.float64):
    return torch.tensor(np.random.default_rng(seed).normal(size=(n, d))).to(dtype)


def matern_by_bessel(nu, scale):
    """The general formula, Rasmussen & Williams 4.14, which knows nothing of the three closed forms."""

    def k(x, y):
        u = math.sqrt(2 * nu) * cdist(x, y) / scale
        return 2 ** (1 - nu) / gamma(nu) * u**nu * kv(nu, u)

    return k


def mean_squared(x, y):
    return (cdist(x, y) ** 2).mean()


REFERENCES = {
    "squared-euclidean-mean": (SquaredEuclidean(), lambda x, y: np.exp(-(cdist(x, y) ** 2) / mean_squared(x, y))),
    "squared-euclidean-half": (SquaredEuclidean(3.0, half=True), lambda x, y: rbf_kernel(x, y, gamma=1 / 6)),
    "laplacian-l2": (Laplacian(0.7), lambda x, y: gp.Matern(0.7, nu=0.5)(x, y)),
    "laplacian-l1": (Laplacian(0.7, norm="l1"), lambda x, y: laplacian_kernel(x, y, gamma=1 / 0.7)),
    "matern-1/2": (Matern(0.5, 1.3), lambda x, y: gp.Matern(1.3, nu=0.5)(x, y)),
    "matern-3/2": (Matern(1.5, 1.3), lambda x, y: gp.Matern(1.3, nu=1.5)(x, y)),
    "matern-5/2": (Matern(2.5, 1.3), lambda x, y: gp.Matern(1.3, nu=2.5)(x, y)),
    "matern-3/2-bessel": (Matern(1.5, 0.4), matern_by_bessel(1.5, 0.4)),
    "matern-5/2-bessel": (Matern(2.5, 0.4), matern_by_bessel(2.5, 0.4)),
    "cauchy": (Cauchy(0.8), lambda x, y: gp.RationalQuadratic(0.8 / math.sqrt(2), alpha=1)(x, y)),
    "inverse-multiquadric": (InverseMultiquadric(0.8), lambda x, y: gp.RationalQuadratic(0.8, alpha=0.5)(x, y)),
    "sum": (
        Sum(kernels=[Gaussian(0.5), Cauchy()], weights=(2.0, 0.5)),
        lambda x, y: 2 * rbf_kernel(x, y, gamma=2) + 0.5 / (1 + cdist(x, y) ** 2),
    ),
    "product": (
        Product(kernels=[Gaussian(0.5), Laplacian(2.0, norm="l1")]),
        lambda x, y: rbf_kernel(x, y, gamma=2) * laplacian_kernel(x, y, gamma=0.5),
    ),
    "scaled": (
        Scaled(kernel=Matern(2.5), amplitude=3.0, power=2.0),
        lambda x, y: 3 * gp.Matern(1.0, nu=2.5)(x, y) ** 2,
    ),
    "mixture": (
        Mixture(scales=(0.5, 3.0), weights=(1.0, 3.0)),
        lambda x, y: 0.25 * rbf_kernel(x, y, gamma=2) + 0.75 * rbf_kernel(x, y, gamma=1 / 18),
    ),
    "sum-of-products": (
        Sum(kernels=[Product(kernels=[Gaussian(), Cauchy()]), Scaled(kernel=Laplacian(), amplitude=0.1)]),
        lambda x, y: rbf_kernel(x, y, gamma=0.5) / (1 + cdist(x, y) ** 2) + 0.1 * np.exp(-cdist(x, y)),
    ),
}  # fmt: skip
KERNELS = {name: kernel for name, (kernel, _) in REFERENCES.items()}
PLAIN = {**KERNELS, "energy": Energy(), "signed-sum": Sum(kernels=[Gaussian(), Gaussian(2.0)], weights=(1.0, -0.5))}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("d", [1, 2, 8, 40])
def test_equals_the_formula_of_others(name, d):
    kernel, reference = REFERENCES[name]
    x, y = points(50, d), points(30, d, seed=1)
    got = kernel.log_kernel(x, y)
    np.testing.assert_allclose(got, np.log(reference(x.numpy(), y.numpy())), rtol=1e-9, atol=1e-12)
    assert isinstance(kernel, Kernel)


def test_energy_equals_minus_the_distance_and_halves_to_the_energy_distance():
    x, y = points(60, 3), points(40, 3, seed=1) + 0.5
    k = {key: Energy().block(*pair).numpy() for key, pair in {"xy": (x, y), "xx": (x, x), "yy": (y, y)}.items()}
    np.testing.assert_allclose(k["xy"], -cdist(x, y), rtol=1e-12)
    mmd = k["xx"].mean() + k["yy"].mean() - 2 * k["xy"].mean()
    energy_distance = 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()
    assert mmd == pytest.approx(energy_distance)
    assert mmd > 0.05


@pytest.mark.parametrize("name", KERNELS)
def test_is_positive_definite(name):
    x = points(80, 3)
    gram = KERNELS[name].log_kernel(x, x).exp()
    torch.testing.assert_close(gram, gram.mT, rtol=1e-12, atol=0)
    eigenvalues = torch.linalg.eigvalsh(gram)
    assert eigenvalues.min() > -1e-12 * eigenvalues.max()


def test_energy_is_positive_definite_on_differences_of_distributions():
    x, v = points(80, 3), points(80, 20, seed=1)
    v = v - v.mean(0)
    assert torch.linalg.eigvalsh(v.mT @ Energy().block(x, x) @ v).min() > 0


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_the_dtype_and_is_exact_at_distance_zero_far_from_the_origin(name, dtype):
    kernel, x = PLAIN[name], points(20, 16, dtype=torch.float64).to(dtype) + 1e3
    operator = operator_of(kernel, x, x)
    block = operator.dense()
    assert block.dtype == dtype
    height = PLAIN[name].block(x[:1], x[:1]) if hasattr(kernel, "block") else torch.ones(1, 1, dtype=dtype)
    if isinstance(kernel, Sum | Mixture):  # through log and exp of their weights
        torch.testing.assert_close(block.diagonal(), height[0].expand(20))
    else:
        assert torch.equal(block.diagonal(), height[0].expand(20))


@pytest.mark.parametrize("name", PLAIN)
def test_gradients_are_right_and_finite_where_points_coincide(name):
    kernel = PLAIN[name]
    x = points(6, 3).requires_grad_()
    y = torch.cat([x.detach()[:3], points(4, 3, seed=1)])
    if isinstance(kernel, SquaredEuclidean):
        kernel = kernel.fitted(x.detach(), y)  # as a number: what is compared is the kernel of points
    evaluate = kernel.log_kernel if kernel.has_log else kernel.block
    assert torch.autograd.grad(evaluate(x, y).sum(), x)[0].isfinite().all()
    apart = y[3:].clone()
    torch.autograd.gradcheck(lambda p: evaluate(p, apart), (x,))
    if (log_radial := getattr(kernel, "log_radial", None)) is not None:
        direct = torch.autograd.grad(log_radial((x[:, None] - y).square().sum(-1)).sum(), x)[0]
        torch.testing.assert_close(direct, torch.autograd.grad(evaluate(x, y).sum(), x)[0])


@pytest.mark.parametrize("name", PLAIN)
def test_log_radial_and_quadratic_say_the_same_as_log_kernel(name):
    x, y = points(9, 3), points(7, 3, seed=1)
    kernel = getattr(PLAIN[name], "fitted", lambda x, y: PLAIN[name])(x, y)
    squared = torch.tensor(cdist(x, y) ** 2)
    radial = name not in ("laplacian-l1", "product", "energy", "signed-sum")
    assert hasattr(kernel, "log_radial") == radial
    assert not radial or isinstance(kernel, RadialKernel)
    if radial:
        torch.testing.assert_close(kernel.log_radial(squared.clone()), kernel.log_kernel(x, y), rtol=1e-9, atol=1e-12)
    if (quadratic := getattr(kernel, "quadratic", None)) is not None:
        torch.testing.assert_close(-quadratic * squared, kernel.log_kernel(x, y))
    assert hasattr(kernel, "quadratic") == ("squared" in name)


def test_products_and_powers_of_gaussians_are_gaussian():
    product = Product(kernels=[SquaredEuclidean(2.0), Scaled(kernel=SquaredEuclidean(1.0, half=True), power=3.0)])
    assert product.quadratic == pytest.approx(0.5 + 1.5)


@pytest.mark.parametrize("name", PLAIN)
def test_batches_through_the_operator_equal_one_problem_at_a_time(name):
    x, y = points(2 * 9, 3).reshape(2, 9, 3), points(2 * 7, 3, seed=1).reshape(2, 7, 3)
    kernel = getattr(PLAIN[name], "fitted", lambda x, y: PLAIN[name])(x, y)
    together = operator_of(kernel, x, y).dense()
    one = torch.stack(
        [kernel.log_kernel(x[i], y[i]).exp() if kernel.has_log else kernel.block(x[i], y[i]) for i in (0, 1)]
    )
    torch.testing.assert_close(together, one, rtol=1e-12, atol=0)


def test_the_mean_scale_is_the_weighted_mean_of_the_squared_distance():
    x, y = points(50, 3) + 1e5, points(40, 3, seed=1) + 1e5
    a, b = points(50, 1, seed=2)[:, 0].abs(), points(40, 1, seed=3)[:, 0].square()
    squared = cdist(x, y) ** 2
    assert SquaredEuclidean().fitted(x, y).scale == pytest.approx(squared.mean(), rel=1e-9)
    weighted = np.average(squared, weights=np.outer(a, b))
    fitted = SquaredEuclidean(half=True).fitted(x, y, a, b)
    assert fitted.scale == pytest.approx(weighted, rel=1e-9)
    assert fitted.quadratic == pytest.approx(0.5 / weighted, rel=1e-9)
    assert SquaredEuclidean(2.0).fitted(x, y) == SquaredEuclidean(2.0)
    batch = torch.stack([x, 3 * x]), torch.stack([y, 3 * y])
    assert SquaredEuclidean().fitted(*batch).scale == pytest.approx(5 * squared.mean(), rel=1e-9)
    assert SquaredEuclidean().fitted(x[:1], x[:1]).scale == 1.0


WEIGHTED = {"uniform": (None, None), "shared": ((), ()), "per-problem": ((2,), (2,))}


@pytest.mark.parametrize("weights", WEIGHTED)
@pytest.mark.parametrize("batch", [((), ()), ((2,), (2,)), ((), (2,))], ids=["single", "batch", "broadcast"])
def test_the_mean_scale_has_the_derivatives_of_the_mean_of_all_pairs(batch, weights):
    if weights == "per-problem" and batch == ((), ()):
        weights = "shared"
    x, y = (points(math.prod(b) * n, 3, seed=n).reshape(*b, n, 3) for b, n in zip(batch, (9, 7), strict=True))
    given = [x, y]
    for n, shape in zip((9, 7), WEIGHTED[weights], strict=True):
        given.append(None if shape is None else points(math.prod(shape) * n, 1, seed=n).abs().reshape(*shape, n))
    given = [None if part is None else part.requires_grad_() for part in given]
    wanted = [part for part in given if part is not None]

    squared = (x[..., :, None, :] - y[..., None, :, :]).square().sum(-1)
    a, b = (torch.ones(n, dtype=torch.float64) if w is None else w for w, n in zip(given[2:], (9, 7), strict=True))
    pairs = a[..., :, None] * b[..., None, :]
    truth = ((pairs * squared).sum((-2, -1)) / pairs.sum((-2, -1))).mean()
    cost = -SquaredEuclidean(half=True).fitted(*given).log_radial(torch.tensor(3.0, dtype=torch.float64))
    torch.testing.assert_close(cost, 1.5 / truth)
    found, expected = (torch.autograd.grad(value, wanted) for value in (cost, 1.5 / truth))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    with torch.no_grad():
        assert SquaredEuclidean().fitted(*given).mean is None


def test_fitting_reaches_the_kernels_inside_and_leaves_the_others():
    x, y = points(50, 3), points(40, 3, seed=1)
    number = SquaredEuclidean().fitted(x, y)
    assert Sum(kernels=[SquaredEuclidean(), Cauchy()]).fitted(x, y).kernels == (number, Cauchy())
    assert Product(kernels=[SquaredEuclidean()]).fitted(x, y).kernels == (number,)
    assert Scaled(kernel=SquaredEuclidean()).fitted(x, y).kernel == number
    assert Mixture(kernel=SquaredEuclidean()).fitted(x, y).kernel == number


def test_points_that_are_not_finite_are_named_and_blocks_need_a_number():
    x = points(5, 2)
    with pytest.raises(ValueError, match="not finite"):
        SquaredEuclidean().fitted(x * torch.nan, x)
    with pytest.raises(ValueError, match="fitted"):
        SquaredEuclidean().log_radial(x)


def test_a_signed_part_makes_the_whole_signed():
    signed = Sum(kernels=[Gaussian(), Gaussian(2.0)], weights=(1.0, -0.5))
    x, y = points(9, 3), points(7, 3, seed=1)
    for kernel in (signed, Product(kernels=[Gaussian(), Energy()]), Scaled(kernel=Energy()), Mixture(kernel=Energy())):
        assert not kernel.has_log
    torch.testing.assert_close(
        signed.block(x, y), Gaussian().log_kernel(x, y).exp() - 0.5 * Gaussian(2.0).log_kernel(x, y).exp()
    )
    torch.testing.assert_close(
        Product(kernels=[Gaussian(), Energy()]).block(x, y),
        -Gaussian().log_kernel(x, y).exp() * torch.tensor(cdist(x, y)),
    )
    torch.testing.assert_close(Scaled(kernel=Energy(), amplitude=2.0).block(x, y), torch.tensor(-2 * cdist(x, y)))
    torch.testing.assert_close(Mixture(kernel=Energy(), scales=(0.5, 1)).block(x, y), torch.tensor(-1.5 * cdist(x, y)))
    with pytest.raises(ValueError, match="signed"):
        signed.log_kernel(x, y)


def test_far_points_have_a_logarithm_also_where_every_term_underflows():
    x, y = torch.zeros(1, 1), torch.full((1, 1), 1e3)
    got = Sum(kernels=[Gaussian(), Gaussian(0.5)], weights=(3.0, 1.0)).log_kernel(x, y)
    assert float(got) == pytest.approx(-5e5 + math.log(3), rel=1e-7)


def test_the_config_says_them_all():
    kernel = atlas_core.build(
        "kernel",
        "sum",
        kernels=[{"use": "matern", "nu": 2.5}, {"use": "product", "kernels": ["gaussian", "cauchy"]}],
        weights=[0.5, 2.0],
    )
    expected = Sum(kernels=(Matern(2.5), Product(kernels=(Gaussian(), Cauchy()))), weights=(0.5, 2.0))
    x, y = points(5, 2), points(4, 2, seed=1)
    torch.testing.assert_close(kernel.log_kernel(x, y), expected.log_kernel(x, y))
    assert kernel.kernels == expected.kernels
    assert hash(kernel)
    assert atlas_core.build("kernel", "squared-euclidean", scale=2.0) == SquaredEuclidean(2.0)
    assert atlas_core.build("kernel", "squared-euclidean", scale="mean", half=True) == SquaredEuclidean(half=True)
    assert atlas_core.build("kernel", "mixture", scales=[1, 2]).scales == (1.0, 2.0)


@pytest.mark.parametrize("name", PLAIN)
def test_survives_a_pickle(name):
    assert pickle.loads(pickle.dumps(PLAIN[name])) == PLAIN[name]  # noqa: S301 - our own bytes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SquaredEuclidean(0.0), "scale"),
        (lambda: SquaredEuclidean("median"), "scale"),
        (lambda: Laplacian(-1.0), "scale"),
        (lambda: Laplacian(1.0, norm="l3"), "norm"),
        (lambda: Cauchy(0.0), "scale"),
        (lambda: InverseMultiquadric(0.0), "scale"),
        (lambda: Matern(1.0), "nu"),
        (lambda: Sum(kernels=[]), "sum: kernels is empty"),
        (lambda: Sum(kernels=[Gaussian()], weights=(1.0, 2.0)), "1 numbers"),
        (lambda: Sum(kernels=[Gaussian()], weights=(0.0,)), r"weights\[0\]"),
        (lambda: Mixture(weights=(1.0,)), "5 numbers"),
        (lambda: Mixture(scales=(1.0,), weights=(-1.0,)), r"weights\[0\] is -1"),
        (lambda: Mixture(scales=(1.0, 0.0)), "scales"),
        (lambda: Product(kernels=[]), "product: kernels is empty"),
        (lambda: Scaled(kernel=Energy(), power=2.0), "signed"),
        (lambda: Scaled(kernel=Gaussian(), amplitude=0.0), "amplitude"),
    ],
)
def test_names_the_field_that_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_who_knows_a_spectral_law():
    assert all(
        isinstance(kernel, SpectralKernel) for kernel in (Laplacian(), Matern(), Cauchy(), InverseMultiquadric())
    )
