"""The vectors that an operator on a grid takes, (*batch, length), with or without columns."""

from __future__ import annotations

from torch import Tensor

from atlas_kernels_builtin.exact.checks import check_real


def check_length(vector: Tensor, length: int, batch_shape: tuple[int, ...]) -> Tensor:
    """Return `vector` as (*batch, length). Raises ValueError if it has another shape, or no real dtype."""
    check_real(vector)
    if vector.shape[-1:] != (length,) or vector.ndim > len(batch_shape) + 1:
        raise ValueError(f"a vector of shape {(*batch_shape, length)} is needed, not {tuple(vector.shape)}")
    return vector.expand(*batch_shape, length)


def columns_first(vector: Tensor, length: int, batch_shape: tuple[int, ...]) -> tuple[bool, Tensor]:
    """(*batch, length) as it is, and (*batch, length, k) as (k, *batch, length); True: it is the former.

    Raises ValueError as `check_length` does.
    """
    check_real(vector)
    lead = len(batch_shape)
    if vector.shape != (*batch_shape, length) and (
        vector.ndim != lead + 2 or vector.shape[:-1] != (*batch_shape, length)
    ):
        wanted = (*batch_shape, length)
        raise ValueError(
            f"a vector of shape {wanted}, or with one more dimension, is needed, not {tuple(vector.shape)}"
        )
    single = vector.ndim == lead + 1
    return single, vector if single else vector.movedim(-1, 0)


def columns_last(values: Tensor, single: bool) -> Tensor:
    return values if single else values.movedim(0, -1)
