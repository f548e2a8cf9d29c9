"""The exact operator that a kernel gets by default: stored where memory allows, streamed where not."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path

import torch
from torch import Tensor

from atlas_core.contracts import Kernel
from atlas_kernels_builtin.exact.checks import common_batch
from atlas_kernels_builtin.exact.dense import DenseOperator, dense_operator
from atlas_kernels_builtin.exact.streaming import StreamingOperator, stream

SHARE_OF_MEMORY = 0.25
"""Share of the free memory of the device that the entries of an operator may take."""
WORTH_STORING = 2**30
"""Entries up to which a matrix is expected to be stored: to stream one of them is said aloud."""


def exact_operator(
    kernel: Kernel, x: Tensor, y: Tensor, *, epsilon: float | Tensor = 1.0, memory: int | None = None
) -> DenseOperator | StreamingOperator:
    """Return the exact operator of x (*batch, n, *item) and y (*batch, m, *item), which says why in its `reason`.

    Stored if its entries fit in `memory` bytes, a quarter of what is free on the device where None; else streamed, with
    a warning where a matrix of that size is usually stored. Raises ValueError as `operator_of` does.
    """
    batch, dims = common_batch(kernel, x, y), kernel.item_ndim
    n, m = x.shape[-1 - dims], y.shape[-1 - dims]
    entries = math.prod(batch) * n * m
    size = entries * x.element_size()
    budget = memory
    if budget is None:
        budget = int(SHARE_OF_MEMORY * free_memory(x.device))
    said = f"{n} × {m}{f' × {math.prod(batch)} problems' if batch else ''} in {str(x.dtype)[6:]} is {_megabytes(size)}"
    if size <= budget:
        reason = f"{said}, within the {_megabytes(budget)} that a matrix may take"
        return dense_operator(kernel, x, y, epsilon=epsilon, eager=False, reason=reason)
    reason = f"{said}, more than the {_megabytes(budget)} that a matrix may take"
    if entries <= WORTH_STORING:
        warnings.warn(f"the kernel is streamed, not stored: {reason}", stacklevel=3)
    return stream(kernel, x, y, epsilon=epsilon, reason=reason)


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on the device; untold, half of what there is, or 2 GiB where nothing is told."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        if not hasattr(os, "sysconf"):  # Windows tells neither: what any machine that runs torch has
            return 2**31
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
