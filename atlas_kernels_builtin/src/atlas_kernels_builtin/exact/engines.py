"""What computes a streamed product: one fused pass on a GPU where Triton is, tiles in torch everywhere else."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from atlas_kernels_builtin.exact.streaming import StreamingOperator

MOST_COLUMNS = 8
"""Vectors at once from which tiles are faster: the fused product computes the entries anew for each."""


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def engine_of(operator: StreamingOperator, columns: int = 1) -> Literal["triton", "torch"]:
    """`triton` for a few vectors, a Gaussian kernel and plain float32 or float64 on a CUDA device."""
    fits = (
        operator.device.type == "cuda"
        and columns <= MOST_COLUMNS
        and operator.storage in (None, operator.dtype)
        and operator.dtype in (torch.float32, torch.float64)
        and operator.kernel.item_ndim == 1
        and hasattr(operator.kernel, "quadratic")
    )
    return "triton" if fits and _has_triton() else "torch"


def fused_product(operator: StreamingOperator, vectors: Tensor, *, transpose: bool = False) -> Tensor:
    """K @ vectors in one pass: (b, m, k) -> (b, n, k); transposed, (b, n, k) -> (b, m, k)."""
    from atlas_kernels_builtin.exact import fused

    x, y, left, right = _sides(operator, transpose)
    return fused.matvec(x, y, _rate(operator), left, right, vectors)


def fused_log_sum(operator: StreamingOperator, log_vector: Tensor, *, transpose: bool = False) -> Tensor:
    """log Σ_j K_ij exp(log_vector_j) in one pass: (b, m) -> (b, n); transposed, (b, n) -> (b, m)."""
    from atlas_kernels_builtin.exact import fused

    x, y, left, right = _sides(operator, transpose)
    return fused.log_matvec(x, y, _rate(operator), right + log_vector) + left


def _sides(operator: StreamingOperator, transpose: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points and log scalings of the rows and columns that are wanted and summed."""
    points = operator.points.centred(operator.dtype)
    scalings = [
        p.new_zeros(p.shape[:2]) if scaling is None else scaling.detach().to(p)
        for p, scaling in zip(points, (operator.log_left, operator.log_right), strict=True)
    ]
    (x, y), (left, right) = points, scalings
    return (y, x, right, left) if transpose else (x, y, left, right)


def _rate(operator: StreamingOperator) -> Tensor:
    """1 / (2 h² ε) of each problem: (b,)."""
    epsilon = torch.as_tensor(operator.flat_epsilon, dtype=operator.dtype, device=operator.device).detach()
    quadratic = float(operator.kernel.quadratic)  # type: ignore[attr-defined]
    return (quadratic / epsilon).expand(operator.x.shape[0])
