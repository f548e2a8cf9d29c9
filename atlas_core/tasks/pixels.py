"""The two ways between an image and one of fewer pixels; `block_means(repeated(x, f), f)` is x."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def block_means(x: Tensor, factor: int) -> Tensor:
    """(b, c, h, w) -> (b, c, h / factor, w / factor)."""
    *rest, height, width = x.shape
    return x.reshape(*rest, height // factor, factor, width // factor, factor).mean((-3, -1))


def repeated(x: Tensor, factor: int) -> Tensor:
    """(b, c, h, w) -> (b, c, h · factor, w · factor)."""
    return x.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
