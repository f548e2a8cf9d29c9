"""From noise levels ς = σ/α, in which the papers space their grids, to the times of a process."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from attrs.validators import gt
from torch import Tensor

from atlas_core.contracts import Process


def sigma_max_field() -> Any:
    """A field for the noise level that a grid is spaced from, at most."""
    return attrs.field(
        default=80.0,
        validator=gt(0),
        metadata={
            "help": "Largest σ/α to space from, where the process has no smaller end; it starts at its end anyway."
        },
    )


def level_range(process: Process, largest: float) -> tuple[float, float]:
    """Return ς at t_min, and ς at t_max or `largest` if that is less (a process may end in pure noise, ς = ∞)."""
    ends = torch.tensor([process.t_min, process.t_max], dtype=torch.float64)
    lowest, highest = torch.exp(-process.log_snr(ends) / 2).tolist()
    return lowest, min(highest, largest)


def times_of_levels(process: Process, levels: Tensor) -> Tensor:
    """Return t_max, the times of levels[1:], and 0: (n,) decreasing levels -> (n + 1,) times.

    The first level only spaces the rest: sampling starts where the process ends, whose prior is the more exact.
    """
    times = process.time_of_log_snr(-2 * levels.log())
    times[0] = process.t_max
    return torch.cat([times, torch.zeros(1, dtype=torch.float64)])


def check_steps(steps: int) -> None:
    """Raise ValueError for a grid without a step."""
    if steps < 1:
        raise ValueError(f"a grid has at least one step, not {steps}")


def spaced(first: float, last: float, count: int) -> Tensor:
    """Return `count` evenly spaced float64 numbers; one alone is the first."""
    if not (math.isfinite(first) and math.isfinite(last)):
        raise ValueError(f"cannot space from {first:g} to {last:g}")
    return torch.linspace(first, last, count, dtype=torch.float64)
