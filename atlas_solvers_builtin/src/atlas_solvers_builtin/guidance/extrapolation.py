"""What guidance by extrapolation shares: away from a reference, which a scale of 1 does not need."""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_core.contracts import GuidanceContext


def extrapolate(context: GuidanceContext, scale: float) -> Tensor:
    """Return D_ref + scale · (D_cond − D_ref) (b, *item); at 0 and 1 the one and the other, bit for bit.

    Raises ValueError where there is no reference and the scale is not 1.
    """
    if scale == 1:
        return context.d_cond
    return torch.lerp(reference(context), context.d_cond, scale)


def reference(context: GuidanceContext) -> Tensor:
    """Return the prediction to lead away from. Raises ValueError where there is none."""
    if context.d_ref is None:
        raise ValueError("context.d_ref is None: there is no unconditional or weak prediction to lead away from")
    return context.d_ref


def wanted(scale: float, log_snr: Tensor) -> Tensor:
    """Return, in the shape of log_snr, whether a scale needs the reference: all but 1 do."""
    return torch.full_like(log_snr, scale != 1, dtype=torch.bool)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """The inner product of each row: (b, *item), (b, *item) -> (b, 1, …)."""
    return (x * y).flatten(1).sum(1).view(-1, *[1] * (x.ndim - 1))
