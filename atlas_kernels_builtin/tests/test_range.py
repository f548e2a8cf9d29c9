"""Points so small or so large that their squares are no numbers: the right answer, or an error that says which."""

from __future__ import annotations

import re

import pytest
import torch
from atlas_kernels_builtin.exact.streaming import stream

import atlas_core
from atlas_kernels_builtin import Cauchy, Gaussian, Laplacian, Matern, SquaredEuclidean, operator_of

X, Y = (torch.randn(20, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (0, 1))
V = torch.linspace(0.5, 1, 20).double()


@pytest.mark.parametrize("size", [1e-200, 1e200])
@pytest.mark.parametrize("kernel", [Gaussian(), Laplacian(), Matern(), Cauchy(), SquaredEuclidean(scale=1.0)], ids=repr)
def test_squares_that_under_or_overflow_are_an_error_with_the_number_and_the_way_out(kernel, size):
    with pytest.raises(ValueError, match=r"the points are [\d.]+e[-+]200 wide, and in float64") as caught:
        operator_of(kernel, size * X, size * Y)
    factor = 2.0 ** int(re.search(r"2\.0\*\*(-?\d+)", str(caught.value))[1])
    x, y = factor * size * X, factor * size * Y
    assert operator_of(kernel, x, y).matvec(V).isfinite().all()


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_a_cost_in_units_of_its_mean_says_so_too(size):
    for make in (
        lambda: operator_of(SquaredEuclidean(), size * X, size * Y),
        lambda: atlas_core.build("solver", "sinkhorn", kernel={"use": "squared-euclidean"}).solve(size * X, size * Y),
    ):
        with pytest.raises(ValueError, match=r"(?i)squared-?euclidean: the .* [\d.]+e[-+]200.* by 2\.0\*\*"):
            make()


@pytest.mark.parametrize("size", [1e-200, 1e-155, 1e155, 1e200])
def test_a_length_of_a_kernel_whose_square_is_no_number_is_refused(size):
    for kernel in (lambda: Gaussian(size), lambda: Cauchy(size)):
        with pytest.raises(ValueError, match=f"must be between 1e-150 and 1e.150.*{size:g}".replace("+", ".")):
            kernel()


@pytest.mark.parametrize(("size", "dtype"), [(1e-140, torch.float64), (1e140, torch.float64), (1e-14, torch.float32)])
def test_whatever_is_not_refused_is_right(size, dtype):
    x, y = (size * X).to(dtype), (size * Y).to(dtype)
    for kernel, unit in (
        (Gaussian(size), Gaussian()),
        (Laplacian(size), Laplacian()),
        (Matern(scale=size), Matern()),
        (Cauchy(size), Cauchy()),
        (SquaredEuclidean(), SquaredEuclidean()),
    ):
        expected = operator_of(unit, X, Y, epsilon=0.5)
        found = operator_of(kernel, x, y, epsilon=0.5)
        tolerance = 1e-12 if dtype == torch.float64 else 3e-5
        torch.testing.assert_close(found.matvec(V.to(dtype)).double(), expected.matvec(V), rtol=tolerance, atol=0)
        torch.testing.assert_close(
            found.log_rows(torch.arange(3)).double(), expected.log_rows(torch.arange(3)), rtol=tolerance, atol=1e-6
        )


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_a_kernel_that_squares_nothing_has_no_such_limit(size):
    kernel = Laplacian(size, norm="l1")
    expected = operator_of(Laplacian(norm="l1"), X, Y).matvec(V)
    torch.testing.assert_close(operator_of(kernel, size * X, size * Y).matvec(V), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [0.0, 1e-200, 1e200])
def test_points_that_all_coincide_are_as_good_as_any(size):
    x = torch.full((4, 2), size, dtype=torch.float64)
    for kernel in (Gaussian(), SquaredEuclidean(), Laplacian()):
        torch.testing.assert_close(operator_of(kernel, x, x).dense(), torch.ones(4, 4).double(), rtol=0, atol=0)


def test_points_far_from_the_origin_are_measured_around_their_centre():
    x, y = X + 1e160, Y + 1e160  # all rounded to one point
    assert torch.equal(stream(Gaussian(), x, y).dense(), torch.ones(20, 20).double())
