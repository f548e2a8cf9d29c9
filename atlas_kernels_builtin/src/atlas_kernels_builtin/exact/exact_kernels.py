"""Kernels that say how their exact operator is to be had: from stored entries, or streamed."""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from torch import Tensor

from atlas_core import component
from atlas_core.contracts import Kernel
from atlas_kernels_builtin.exact.dense import DenseOperator, dense_operator
from atlas_kernels_builtin.exact.streaming import StreamingOperator, stream
from atlas_kernels_builtin.kernels.parts import fit
from atlas_kernels_builtin.kernels.wrapping import SamePairs

STORAGE = {"auto": None, "float32": torch.float32, "float64": torch.float64}


@attrs.frozen
class Dense(SamePairs):
    """Store the kernel matrix: the fastest where it fits in memory and is multiplied with more than a few times."""

    kernel: Kernel = component("kernel", default="atlas-kernels-builtin:gaussian", help="The kernel that is stored.")
    storage: Literal["auto", "float32", "float64"] = attrs.field(
        default="auto",
        validator=attrs.validators.in_(tuple(STORAGE)),
        metadata={"help": "Precision of the entries in memory; auto: that of the points."},
    )
    sparse: bool = attrs.field(
        default=True,
        metadata={"help": "Where a solver lets small entries go and few are left, store those alone."},
    )

    def operator(self, x: Tensor, y: Tensor, *, epsilon: float | Tensor = 1.0) -> DenseOperator:
        """Return the operator of x (*batch, n, *item) and y (*batch, m, *item)."""
        kernel = fit(self.kernel, x, y)
        return dense_operator(kernel, x, y, epsilon=epsilon, storage=STORAGE[self.storage], sparse=self.sparse)


@attrs.frozen
class Streaming(SamePairs):
    """Never store the kernel matrix: memory of O(n + m) for any number of points, entries made anew at each product."""

    kernel: Kernel = component("kernel", default="atlas-kernels-builtin:gaussian", help="The kernel that is streamed.")
    block_bytes: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.ge(1024)),
        metadata={"help": "Bytes of one block; unset: what suits the device, 8 MiB on a CPU."},
    )

    def operator(self, x: Tensor, y: Tensor, *, epsilon: float | Tensor = 1.0) -> StreamingOperator:
        """Return the operator of x (*batch, n, *item) and y (*batch, m, *item)."""
        kernel = fit(self.kernel, x, y)
        return stream(kernel, x, y, epsilon=epsilon, block_bytes=self.block_bytes)
