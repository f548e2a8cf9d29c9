"""The grid `exponential`."""

from __future__ import annotations

import math

import attrs
from torch import Tensor

from atlas_core.contracts import Process
from atlas_solvers_builtin.grids.levels import check_steps, level_range, sigma_max_field, spaced, times_of_levels


@attrs.frozen
class Exponential:
    """Divide the noise by the same factor in every step: equal steps in log-SNR, as theory likes them.

    ln ς_i = ln ς_max + i/(n−1) (ln ς_min − ln ς_max) for i < n, then 0, where ς = σ/α and ς_min is the process's own at
    t_min. Many of its steps go to noise levels at which nothing is decided any more.
    """

    paper = "Lu et al. 2022 (DPM-Solver), sec. 3.4 (uniform in λ); Karras et al. 2022, eq. 5 for ρ → ∞"

    sigma_max: float = sigma_max_field()

    def times(self, process: Process, steps: int) -> Tensor:
        """Return (steps + 1,) times; times[0] = t_max, times[-2] = t_min."""
        check_steps(steps)
        lowest, highest = level_range(process, self.sigma_max)
        return times_of_levels(process, spaced(math.log(highest), math.log(lowest), steps).exp())
