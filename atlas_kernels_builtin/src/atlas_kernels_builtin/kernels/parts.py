"""What kernels that are made of other kernels ask of their parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
from torch import Tensor

from atlas_core.contracts import Kernel

SMALLEST = 1e-150
"""Length whose square is still a float64 number with all its digits."""


def block_of(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    """k of every pair, by the kernel's own `block` or as exp(log_kernel): (n, *item), (m, *item) -> (n, m)."""
    block = getattr(kernel, "block", None)
    out: Tensor = kernel.log_kernel(x, y).exp() if block is None else block(x, y)
    return out


def fit(kernel: Kernel, x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Kernel:
    """The kernel with every setting that depends on the points replaced by its number: see `Kernel`."""
    fitted = getattr(kernel, "fitted", None)
    if fitted is None:
        return kernel
    made: Kernel = fitted(x, y, a, b)
    return made


def check_parts(name: str, kernels: Sequence[Kernel]) -> None:
    """Raise ValueError unless there is at least one kernel, and all compare the same kind of item."""
    if not kernels:
        raise ValueError(f'{name}: kernels is empty: give at least one, as [{{ use = "gaussian" }}]')
    dims = {kernel.item_ndim for kernel in kernels}
    if len(dims) > 1:
        listing = ", ".join(f"{type(kernel).__name__}: {kernel.item_ndim}" for kernel in kernels)
        raise ValueError(f"{name}: its kernels compare items of different numbers of dimensions ({listing})")


def check_length(instance: object, attribute: attrs.Attribute[float], value: float) -> None:
    """A validator of lengths: raise ValueError unless positive, and so is its square, which distances are held to."""
    if not value > 0:
        raise ValueError(f"{attribute.name} must be positive, not {value!r}")
    if not SMALLEST < value < 1 / SMALLEST:
        raise ValueError(
            f"{attribute.name} must be between {SMALLEST:g} and {1 / SMALLEST:g}, where its square is a number, not "
            f"{value!r}: multiply it and the points by 2.0**{-round(math.log2(value)) if value < math.inf else -512}"
        )
