"""The kind `grid`: the times that a sampler visits. It matters more than the sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.contracts.process import Process


@runtime_checkable
class Grid(Protocol):
    """A decreasing sequence of times from noise to data."""

    def times(self, process: Process, steps: int) -> Tensor:
        """Return (steps + 1,) strictly decreasing times, float64, on the CPU; times[0] ≤ process.t_max, times[-1] = 0.

        Raises ValueError for steps < 1.
        """
        ...
