"""Products with a Gaussian kernel matrix in one pass on the GPU, no entry ever in its memory (Triton).

Imported only where Triton is. Distances are sums of squared differences, not an expanded product: in float32 without
TF32 that costs a GPU the same, and k(x, x) is exactly 1. With TRITON_INTERPRET=1 it runs on a CPU, for the tests.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 64, 64
"""Entries of a tile: what one program holds in registers."""
LOG2_E = math.log2(math.e)


@triton.jit
def _exponents(x, y, right, rate, i, j, n, m, dimension, rows: tl.constexpr, columns: tl.constexpr):  # type: ignore[no-untyped-def]
    """right_j − rate |x_i − y_j|² of a tile, in base 2; −inf beyond the last column."""
    squared = tl.zeros((rows, columns), dtype=right.dtype.element_ty)
    for d in range(dimension):
        xd = tl.load(x + d * n + i, mask=i < n, other=0.0)
        yd = tl.load(y + d * m + j, mask=j < m, other=0.0)
        difference = xd[:, None] - yd[None, :]
        squared += difference * difference
    r = tl.load(right + j, mask=j < m, other=float("-inf"))
    return r[None, :] - rate * squared


@triton.jit
def _log_matvec(x, y, right, rates, out, n, m, dimension, rows: tl.constexpr, columns: tl.constexpr):  # type: ignore[no-untyped-def]
    batch = tl.program_id(1)
    i = tl.program_id(0) * rows + tl.arange(0, rows)
    x, y, right = x + batch * dimension * n, y + batch * dimension * m, right + batch * m
    rate = tl.load(rates + batch)
    largest = tl.full((rows,), float("-inf"), dtype=right.dtype.element_ty)
    total = tl.zeros((rows,), dtype=right.dtype.element_ty)
    for start in range(0, m, columns):
        e = _exponents(x, y, right, rate, i, start + tl.arange(0, columns), n, m, dimension, rows, columns)
        found = tl.maximum(largest, tl.max(e, 1))
        # Until a column with weight is met, the largest exponent is −inf, and −inf − (−inf) is not a number.
        shift = tl.where(found == float("-inf"), 0.0, found)
        total = total * tl.exp2(largest - shift) + tl.sum(tl.exp2(e - shift[:, None]), 1)
        largest = found
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    tl.store(out + batch * n + i, shift + tl.log2(total), mask=i < n)


@triton.jit
def _matvec(x, y, left, right, rates, v, out, n, m, dimension, rows: tl.constexpr, columns: tl.constexpr):  # type: ignore[no-untyped-def]
    batch, k = tl.program_id(1), tl.program_id(2)
    i = tl.program_id(0) * rows + tl.arange(0, rows)
    x, y, right = x + batch * dimension * n, y + batch * dimension * m, right + batch * m
    rate = tl.load(rates + batch)
    factors = v + (k * tl.num_programs(1) + batch) * m
    log_left = tl.load(left + batch * n + i, mask=i < n, other=0.0)
    total = tl.zeros((rows,), dtype=right.dtype.element_ty)
    for start in range(0, m, columns):
        j = start + tl.arange(0, columns)
        e = _exponents(x, y, right, rate, i, j, n, m, dimension, rows, columns)
        # All exponents are added before the one exponential: nothing overflows unless an entry of the product does.
        factor = tl.load(factors + j, mask=j < m, other=0.0)
        total += tl.sum(tl.exp2(e + log_left[:, None]) * factor[None, :], 1)
    tl.store(out + (k * tl.num_programs(1) + batch) * n + i, total, mask=i < n)


def log_matvec(x: Tensor, y: Tensor, rate: Tensor, log_right: Tensor) -> Tensor:
    """log Σ_j exp(log_right_j − rate |x_i − y_j|²): (b, n, d), (b, m, d), (b,), (b, m) -> (b, n), without a graph."""
    batch, n, dimension = x.shape
    out = torch.empty(batch, n, dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(n, ROWS), batch)
    arguments = (_transposed(x), _transposed(y), _base_2(log_right), _base_2(rate))
    _log_matvec[grid](*arguments, out, n, y.shape[1], dimension, rows=ROWS, columns=COLUMNS)
    return out / LOG2_E


def matvec(x: Tensor, y: Tensor, rate: Tensor, log_left: Tensor, log_right: Tensor, v: Tensor) -> Tensor:
    """Σ_j exp(log_left_i + log_right_j − rate |x_i − y_j|²) v_jk: … (b, n), (b, m), (b, m, k) -> (b, n, k).

    Each of the k columns computes the entries anew: meant for one or a few.
    """
    batch, n, dimension = x.shape
    columns = v.shape[2]
    out = torch.empty(columns, batch, n, dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(n, ROWS), batch, columns)
    arguments = (_transposed(x), _transposed(y), _base_2(log_left), _base_2(log_right), _base_2(rate))
    factors = v.to(x.dtype).permute(2, 0, 1).contiguous()
    _matvec[grid](*arguments, factors, out, n, y.shape[1], dimension, rows=ROWS, columns=COLUMNS)
    return out.permute(1, 2, 0)


def _transposed(points: Tensor) -> Tensor:
    """(b, n, d) -> (b, d, n) in memory: threads beside each other read numbers beside each other."""
    return points.detach().mT.contiguous()


def _base_2(exponents: Tensor) -> Tensor:
    return (exponents.detach() * LOG2_E).contiguous()
