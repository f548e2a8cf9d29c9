"""Blocks from one matrix product against float64 differences, where cancellation would show."""

from __future__ import annotations

import pytest
import torch
from atlas_kernels_builtin.exact.streaming import stream

from atlas_kernels_builtin import Gaussian, Laplacian, Matern


def points(n, d, dtype, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("kernel", [Gaussian(), Laplacian(), Matern(nu=1.5)], ids=lambda k: type(k).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_coincident_points_have_kernel_exactly_one_wherever_the_tiles_are_cut(kernel, dtype, offset):
    x = points(40, 16, dtype) + offset
    y = torch.cat([x.flip(0), points(20, 16, dtype, seed=1) + offset])
    k = stream(kernel, x, y, epsilon=0.5, block_bytes=600).dense()
    assert torch.equal(k[:, :40].flip(1).diagonal(), torch.ones(40, dtype=dtype))


@pytest.mark.parametrize("epsilon", [1.0, 0.01, 1e-4])
@pytest.mark.parametrize("kernel", [Gaussian(4.0), Laplacian(4.0)], ids=lambda k: type(k).__name__)
def test_float32_entries_are_those_of_float64(kernel, epsilon):
    x = points(60, 16, torch.float32) * 3
    y = x + 0.1 * epsilon**0.5 * points(60, 16, torch.float32, seed=1)  # near pairs, which matter at a small ε
    exact = stream(kernel, x.double(), y.double(), epsilon=epsilon).exact_rows(torch.arange(60))
    got = stream(kernel, x, y, epsilon=epsilon).dense()
    torch.testing.assert_close(got.double(), exact, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("kernel", [Laplacian(), Matern(nu=0.5)], ids=lambda k: type(k).__name__)
@pytest.mark.parametrize("share", [0.05, 1.0], ids=["few", "most"])
@pytest.mark.parametrize("bytes", [2**23, 20_000])
def test_near_points_do_not_cancel_under_a_cusp(kernel, share, bytes):
    x = points(80, 8, torch.float64)
    y = points(80, 8, torch.float64, seed=1)
    near = int(80 * share)
    y[:near] = x[0] + 10.0 ** torch.linspace(-12, -4, near).double()[:, None] * y[:near]
    x[1:near] = x[0] + 1e-7 * x[1:near]
    operator = stream(kernel, x, y, epsilon=0.01, block_bytes=bytes)
    torch.testing.assert_close(operator.dense(), operator.exact_rows(torch.arange(80)), rtol=1e-9, atol=0)
    method = operator.exponents().blocks.method
    assert (method.name, method.dtype) == ("radial", torch.float64)
    assert 0 < method.near < 1e-3 * operator.points.span
