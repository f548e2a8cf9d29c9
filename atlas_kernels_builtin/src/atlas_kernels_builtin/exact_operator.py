"""The exact operator that a kernel gets by default."""

from __future__ import annotations

from torch import Tensor

from atlas_core.contracts import Kernel, KernelOperator
from atlas_kernels_builtin.streaming import stream


def exact_operator(kernel: Kernel, x: Tensor, y: Tensor, *, epsilon: float | Tensor = 1.0) -> KernelOperator:
    """Return the exact operator."""
    return stream(kernel, x, y, epsilon=epsilon)
