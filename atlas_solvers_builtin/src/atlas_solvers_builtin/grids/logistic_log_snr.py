"""The grid `logistic-log-snr`."""

from __future__ import annotations

import math

import attrs
import torch
from attrs.validators import gt
from torch import Tensor

from atlas_core.contracts import Process
from atlas_solvers_builtin.grids.levels import check_steps, level_range, sigma_max_field, spaced, times_of_levels


@attrs.frozen
class LogisticLogSNR:
    """Spend the steps where images are decided: around one noise level, fewer and fewer on both sides.

    Uniform in u = 1/(1 + exp(−(ln ς − c)/s)) with ς = σ/α, from ς_max down to 11/(10 + n^2.4), but no lower than the
    process at t_min, then 0. With few steps a step has to reach the data earlier: c = center + 6.5/max(n, 5), and
    s = scale − 0.3 (1 − n/50) up to n = 50. The four numbers are fitted to mixtures of Gaussians in 2 to 64 dimensions,
    with and without guidance, from 3 to 50 steps (`benchmarks/samplers.py`); there it leaves a sampler of second order
    half the error of the ρ-grid, and less.
    """

    center: float = attrs.field(default=-1.4, metadata={"help": "ln(σ/α) about which many steps are dense."})
    scale: float = attrs.field(
        default=1.3, validator=gt(0.3), metadata={"help": "Width of the dense part for 50 steps, in ln(σ/α)."}
    )
    sigma_max: float = sigma_max_field()

    def times(self, process: Process, steps: int) -> Tensor:
        """Return (steps + 1,) times; times[0] = t_max."""
        check_steps(steps)
        lowest, highest = level_range(process, self.sigma_max)
        # Image to image may start below where few steps from pure noise would end.
        lowest = max(lowest, min(11 / (10 + steps**2.4), highest / 2))
        center = self.center + 6.5 / max(steps, 5)
        scale = self.scale - 0.3 * (1 - min(steps, 50) / 50)
        first, last = (1 / (1 + math.exp(-(math.log(level) - center) / scale)) for level in (highest, lowest))
        return times_of_levels(process, torch.exp(center + scale * torch.logit(spaced(first, last, steps))))
