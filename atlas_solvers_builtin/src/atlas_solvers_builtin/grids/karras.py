"""The grid `karras`."""

from __future__ import annotations

import attrs
from attrs.validators import gt
from torch import Tensor

from atlas_core.contracts import Process
from atlas_solvers_builtin.grids.levels import check_steps, level_range, sigma_max_field, spaced, times_of_levels


@attrs.frozen
class Karras:
    """Spend more steps near the data, by a power law of the noise level.

    ς_i = (ς_max^(1/ρ) + i/(n−1) (ς_min^(1/ρ) − ς_max^(1/ρ)))^ρ for i < n, then 0, where ς = σ/α and ς_min is the
    process's own at t_min.
    """

    paper = "Karras et al. 2022, eq. 5"

    rho: float = attrs.field(default=7.0, validator=gt(0), metadata={"help": "Higher: more steps near the data."})
    sigma_max: float = sigma_max_field()

    def times(self, process: Process, steps: int) -> Tensor:
        """Return (steps + 1,) times; times[0] = t_max, times[-2] = t_min."""
        check_steps(steps)
        lowest, highest = level_range(process, self.sigma_max)
        return times_of_levels(process, spaced(highest ** (1 / self.rho), lowest ** (1 / self.rho), steps) ** self.rho)
