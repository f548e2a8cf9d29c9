"""Compare the fused products with dense float64 ones; run by test_fused.py, where Triton interprets or compiles."""

from __future__ import annotations

import sys

import torch
from atlas_kernels_builtin.exact import fused
from atlas_kernels_builtin.exact.engines import fused_log_sum, fused_product
from atlas_kernels_builtin.exact.streaming import stream
from atlas_kernels_builtin.kernels.gaussian import Gaussian

DEVICE = sys.argv[1]


def check(dtype: torch.dtype, batch: int, n: int, m: int, dimension: int, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(n)
    x, y = (torch.randn(batch, size, dimension, generator=generator, dtype=torch.float64) for size in (n, m))
    left, right = (3 * torch.randn(batch, size, generator=generator, dtype=torch.float64) for size in (n, m))
    v = torch.randn(batch, m, 3, generator=generator, dtype=torch.float64)
    rate = torch.linspace(0.3, 50.0, batch, dtype=torch.float64)
    right[:, :: max(2, m // 7)] = -torch.inf  # points of weight 0
    exponents = right[:, None] - rate[:, None, None] * (x[:, :, None] - y[:, None]).square().sum(-1)
    arguments = [t.to(DEVICE, dtype) for t in (x, y, rate, left, right, v)]
    x, y, rate, left32, right32, v32 = arguments
    got = fused.log_matvec(x, y, rate, right32).cpu().double()
    torch.testing.assert_close(got, exponents.logsumexp(-1), rtol=tolerance, atol=tolerance)
    got = fused.matvec(x, y, rate, left32, right32, v32).cpu().double()
    torch.testing.assert_close(got, (exponents + left[..., None]).exp() @ v, rtol=20 * tolerance, atol=20 * tolerance)


check(torch.float64, 1, 65, 130, 2, 1e-12)
check(torch.float64, 2, 33, 1, 5, 1e-12)
check(torch.float32, 2, 64, 70, 3, 3e-5)
far = torch.full((1, 2), -torch.inf, dtype=torch.float64, device=DEVICE)
points = torch.zeros(1, 2, 1, dtype=torch.float64, device=DEVICE)
assert fused.log_matvec(points, points, torch.ones(1, dtype=torch.float64, device=DEVICE), far).eq(-torch.inf).all()
same = torch.full((1, 5, 40), 1e3, device=DEVICE)  # coincident points far from the origin: exactly 1
zeros = torch.zeros(1, 5, device=DEVICE)
one = fused.matvec(same, same, torch.full((1,), 1e6, device=DEVICE), zeros, zeros, torch.ones(1, 5, 1, device=DEVICE))
assert one.eq(5).all(), one

# Behind the operator: the engine is chosen where it can be, and gives what the tiles give.
x = torch.randn(2, 40, 3, dtype=torch.float64, device=DEVICE)
y = torch.randn(2, 50, 3, dtype=torch.float64, device=DEVICE)
epsilon = torch.tensor([0.2, 1.5], dtype=torch.float64, device=DEVICE)
operator = stream(Gaussian(bandwidth=0.7), x, y, epsilon=epsilon).scaled(x[..., 0], y[..., 0])
assert operator.engine == ("triton" if DEVICE == "cuda" else "torch")
dense = stream(Gaussian(bandwidth=0.7), x, y, epsilon=epsilon).scaled(x[..., 0], y[..., 0]).dense()
u, v = x[..., 1:], y[..., 1:]
torch.testing.assert_close(fused_product(operator, v), dense @ v)
torch.testing.assert_close(fused_product(operator, u, transpose=True), dense.mT @ u)
torch.testing.assert_close(fused_log_sum(operator, v[..., 0]), (dense.log() + v[:, None, :, 0]).logsumexp(-1))
torch.testing.assert_close(fused_log_sum(operator, u[..., 0], transpose=True), (dense.log() + u[..., :1]).logsumexp(-2))
