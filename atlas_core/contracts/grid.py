"""The kind `grid`: the times that a sampler visits. It matters more than the sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import attrs

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.contracts.denoiser import Denoiser
    from atlas_core.contracts.process import Process
    from atlas_core.contracts.sampler import Sampler


@runtime_checkable
class Grid(Protocol):
    """A decreasing sequence of times from noise to data."""

    def times(self, process: Process, steps: int) -> Tensor:
        """Return (steps + 1,) strictly decreasing times, float64, on the CPU; times[0] ≤ process.t_max, times[-1] = 0.

        Raises ValueError for steps < 1.
        """
        ...


@attrs.frozen
class GridFit:
    """A grid that was fitted to a network, with what it gained."""

    grid: FittedGrid
    """It has the times of what was fitted before, too."""
    before: float
    """Root mean square distance from the fine solution, a value of a sample, on the grid it is compared with."""
    after: float
    calls: int
    """Calls of the denoiser that it took."""
    samples: int
    """Rows of each call."""


@runtime_checkable
class FittedGrid(Grid, Protocol):
    """A grid that is computed from a network, as `atlas-core fit-grid` asks for: an attrs class, kept as config."""

    def fit(self, denoiser: Denoiser, sampler: Sampler, x: Tensor, t: float, steps: int) -> GridFit:
        """Fit the times of `steps` steps of `sampler` from states x (b, *item) at time t; fewer rows may be taken.

        Raises ValueError for a sampler that it cannot be fitted to, as a stochastic one.
        """
        ...
