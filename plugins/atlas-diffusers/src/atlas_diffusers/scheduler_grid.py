"""The grid `diffusers`."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Process
from atlas_diffusers.schedulers import levels_of, made


@attrs.frozen
class SchedulerGrid:
    """The noise levels at which a scheduler of diffusers steps, for any process and sampler."""

    scheduler: str = attrs.field(
        default="DPMSolverMultistepScheduler", metadata={"help": "Name of its class in diffusers."}
    )
    options: dict[str, Any] = attrs.field(
        factory=dict, metadata={"help": "Its settings, as timestep_spacing or use_karras_sigmas."}
    )

    def times(self, process: Process, steps: int) -> Tensor:
        """Return (steps + 1,) times. Raises ValueError for a scheduler that does not step once a call."""
        if steps < 1:
            raise ValueError(f"a grid has at least one step, not {steps}")
        scheduler = made(self.scheduler, self.options)
        scheduler.set_timesteps(steps)
        levels = levels_of(scheduler, steps).log()
        ends = torch.tensor(process.t_max, dtype=torch.float64)
        highest = float(-process.log_snr(ends) / 2)
        if float(levels[0]) > highest:
            # It begins with more noise than this process has: the same steps, over what there is.
            first = levels[0] if bool(levels[0].isfinite()) else 2 * levels[1] - levels[-1] if steps > 1 else highest
            levels[0] = first
            low = levels[-1]
            levels = low + (levels - low) * ((highest - low) / (levels[0] - low)) if steps > 1 else levels * 0 + highest
        times = process.time_of_log_snr(-2 * levels).clamp(max=process.t_max)
        return torch.cat([times, torch.zeros(1, dtype=torch.float64)])
