"""Items of any shape as rows: what a plan averages are vectors, whatever a kernel compares."""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_core.contracts import Kernel, KernelOperator


def spread(points: Tensor, operator: KernelOperator, kernel: Kernel | None) -> Tensor:
    """Points (*batch, n, *item) of every problem of the batch, which the other side may have brought."""
    dims = 1 if kernel is None else kernel.item_ndim
    return points.expand(*operator.batch_shape, *points.shape[-1 - dims :])


def as_rows(points: Tensor, operator: KernelOperator, kernel: Kernel | None) -> tuple[Tensor, torch.Size]:
    """The same as (*batch, n, d), and the shape of an item, to give rows back their form with `as_items`."""
    dims = 1 if kernel is None else kernel.item_ndim
    return spread(points, operator, kernel).flatten(-dims), points.shape[-dims:]


def as_items(rows: Tensor, item: torch.Size) -> Tensor:
    """(*batch, n, d) -> (*batch, n, *item)."""
    return rows.reshape(*rows.shape[:-1], *item)
