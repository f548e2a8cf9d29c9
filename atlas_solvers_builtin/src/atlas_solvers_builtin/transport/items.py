"""Items of any shape as rows: what a plan averages are vectors, whatever a kernel compares."""

from __future__ import annotations

import torch
from atlas_kernels_builtin.operators import operator_of
from torch import Tensor

from atlas_core.contracts import Kernel, KernelOperator
from atlas_solvers_builtin.transport.problem import check_points


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


def mapped_rows(
    y: Tensor | None, operator: KernelOperator, kernel: Kernel | None, z: Tensor | None
) -> tuple[Tensor, torch.Size]:
    """What a map averages: targets as rows (*batch, m, d), and the shape of an item, for the sources or new points z.

    Raises ValueError where the points, or for z the kernel, were never given: see `solve_operator`.
    """
    if y is None:
        raise ValueError("barycentric_map needs the target points: pass y=… to solve_operator")
    if z is not None and kernel is None:
        raise ValueError("barycentric_map(z) needs the kernel: couple points with solve(x, y)")
    return as_rows(y, operator, kernel)


def operator_from(
    z: Tensor, y: Tensor | None, operator: KernelOperator, kernel: Kernel | None, *, epsilon: float | Tensor = 1.0
) -> KernelOperator:
    """Return the operator from new points z (*batch, k, *item) to the targets of `operator`, after `mapped_rows`."""
    assert y is not None
    assert kernel is not None
    check_points(z=z, y=y)
    return operator_of(kernel, z, spread(y, operator, kernel), epsilon=epsilon)
