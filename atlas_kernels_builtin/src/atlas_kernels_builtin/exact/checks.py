"""What every exact operator is asked with, checked."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from atlas_core.contracts import Kernel


def common_batch(kernel: Kernel, x: Tensor, y: Tensor) -> tuple[int, ...]:
    """Return the batch dimensions of x (*batch, n, *item) and y (*batch, m, *item). Raises ValueError if they clash."""
    name, dims = type(kernel).__name__, kernel.item_ndim
    for label, points in (("x", x), ("y", y)):
        if points.ndim < dims + 1 or 0 in points.shape:
            raise ValueError(
                f"{name} compares items of {dims} dimension(s): {label} must be a non-empty (*batch, n, *item), "
                f"not {tuple(points.shape)}"
            )
        if not points.is_floating_point():
            raise ValueError(f"{label} must be floating point, not {points.dtype}")
    if x.shape[-dims:] != y.shape[-dims:]:
        raise ValueError(
            f"x and y hold items of different shapes: {tuple(x.shape[-dims:])} and {tuple(y.shape[-dims:])}"
        )
    if x.dtype != y.dtype or x.device != y.device:
        raise ValueError(f"x is {x.dtype} on {x.device}, y is {y.dtype} on {y.device}: convert one of them")
    try:
        # Not torch.broadcast_shapes, whose first call imports a compiler for a second.
        shapes = [torch.empty(()).expand(points.shape[: -dims - 1]) for points in (x, y)]
        return tuple(torch.broadcast_tensors(*shapes)[0].shape)  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ValueError(f"the batch dimensions of x {tuple(x.shape)} and y {tuple(y.shape)} do not match") from None


@torch.no_grad()
def check_range(kernel: Kernel, x: Tensor, y: Tensor) -> None:
    """Raise ValueError if squared distances, which the kernel is a function of, would under- or overflow.

    That is told from the widest of the coordinates: points that all coincide are as good as any.
    """
    if not hasattr(kernel, "log_radial"):
        return
    info = torch.finfo(torch.promote_types(x.dtype, torch.float32))
    low, high = (info.tiny / info.eps) ** 0.5, (info.max / (4 * x.shape[-1])) ** 0.5
    largest = max(float(extreme.abs()) for points in (x, y) for extreme in points.detach().aminmax())
    if low < largest < high:
        # Points may still be close to each other; if so, they are rounded by more than their distances.
        return
    lows, highs = zip(*(p.detach().flatten(0, -2).aminmax(dim=0) for p in (x, y)), strict=True)
    width = float((torch.maximum(*highs) - torch.minimum(*lows)).amax())
    if width != 0 and not low < width < high:  # NaN is not named here
        power = -round(math.log2(width)) if math.isfinite(width) else -round(math.log2(largest))
        raise ValueError(
            f"{type(kernel).__name__}: the points are {width:.3g} wide, and in {str(x.dtype)[6:]} squares of lengths "
            f"below {low:.1g} underflow and above {high:.1g} overflow: multiply the points, and what length the kernel "
            f"has, by 2.0**{power}"
        )


def check_epsilon(
    kernel: Kernel, epsilon: float | Tensor, batch_shape: tuple[int, ...], like: Tensor
) -> float | Tensor:
    """Return ε as a number or as (b,). Raises ValueError unless positive, and for a signed kernel unless it is 1."""
    if isinstance(epsilon, Tensor):
        epsilon = epsilon.to(like).expand(batch_shape).reshape(-1)
    smallest = float(epsilon.detach().min()) if isinstance(epsilon, Tensor) else epsilon
    if not smallest > 0:
        raise ValueError(f"epsilon must be positive, not {smallest}")
    if not kernel.has_log and not (isinstance(epsilon, float | int) and epsilon == 1):
        raise ValueError(f"{type(kernel).__name__} is a signed kernel: k^(1/ε) is defined for ε = 1 alone")
    return epsilon


def check_block(kernel: Kernel, block: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return what a kernel made of n and m points. Raises ValueError, naming the kernel, if that is not (n, m)."""
    if block.shape != shape:
        method = "log_kernel" if kernel.has_log else "block"
        # One problem of a batch has one dimension less, whether or not they were computed together.
        raise ValueError(
            f"{type(kernel).__name__}.{method} returned {tuple(block.shape[1:])} for {shape[-2]} points x and "
            f"{shape[-1]} points y: it has to return one number a pair, {shape[-2:]}"
        )
    return block


def check_real(vector: Tensor) -> None:
    """Raise ValueError, naming the dtype, for a vector that is not floating point: a product would be cut to it."""
    if not vector.is_floating_point():
        raise ValueError(
            f"a vector of {vector.dtype} cannot hold a product, whose entries are real: convert it with .float() or "
            ".double()"
        )


def flatten_vector(vector: Tensor, length: int, batch_shape: tuple[int, ...]) -> Tensor:
    """(*batch, length, …) -> (b, length, …), with at most one more dimension. Raises ValueError for another shape, and
    for integers."""
    check_real(vector)
    lead = len(batch_shape)
    if vector.shape[lead : lead + 1] != (length,) or vector.ndim > lead + 2:
        wanted = (*batch_shape, length)
        raise ValueError(
            f"a vector of shape {wanted}, or with one more dimension, is needed, not {tuple(vector.shape)}"
        )
    return vector.expand(*batch_shape, *vector.shape[lead:]).reshape(-1, *vector.shape[lead:])
