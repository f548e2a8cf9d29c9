"""Counter-based random numbers: row i belongs to sample i, whatever the batch, the rank or the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class NoiseSource(Protocol):
    """A pure function of (key of row i, purpose, step or clock): calling twice gives the same numbers."""

    rows: int

    def select(self, rows: Tensor) -> NoiseSource:
        """Return the source of these rows (r,), int64; they may repeat."""
        ...

    def normal(self, purpose: str, step: int, like: Tensor) -> Tensor:
        """N(0, 1) of the shape, dtype and device of `like` (rows, *item). Raises ValueError for another row count."""
        ...

    def uniform(self, purpose: str, step: int, shape: tuple[int, ...] = ()) -> Tensor:
        """(rows, *shape), float64 on the CPU, in [0, 1)."""
        ...

    def brownian(self, purpose: str, u0: float, u1: float, like: Tensor) -> Tensor:
        """W(u1) − W(u0), W(0) = 0: a Brownian path a number, in the shape, dtype and device of `like` (rows, *item).

        Increments add up, to rounding, however the clock u ≥ 0 is cut: one path for every grid. The sampler chooses the
        clock. Raises ValueError for another row count, and for times that are negative or not finite.
        """
        ...
