"""The grid `uniform`."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Process
from atlas_solvers_builtin.grids.levels import check_steps, spaced


@attrs.frozen
class Uniform:
    """Walk through the process's own time in equal steps: the grid of flow matching, and of DDIM.

    The last step starts at t_min if an equal one would start below it, where no network has been trained; so that on
    `edm` this is the ρ-grid of Karras et al. 2022, eq. 5.
    """

    paper = "Song, Meng & Ermon 2021, appendix D.2 (linear)"

    def times(self, process: Process, steps: int) -> Tensor:
        """Return (steps + 1,) times from t_max to 0."""
        check_steps(steps)
        last = max(process.t_max / steps, process.t_min)
        return torch.cat([spaced(process.t_max, last, steps), torch.zeros(1, dtype=torch.float64)])
