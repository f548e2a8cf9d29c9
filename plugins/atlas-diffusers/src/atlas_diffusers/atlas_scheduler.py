"""A sampler of Atlas in the place of a scheduler: it drives pipelines of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from torch import Tensor

from atlas_core import build
from atlas_core.contracts import Denoiser, Process, Sampler
from atlas_diffusers.handoff import Handoff
from atlas_diffusers.process import SCHEDULES

Component = str | dict[str, Any]


class AtlasScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Step a pipeline of diffusers by a sampler of Atlas, on a grid of Atlas.

        pipe = DDPMPipeline.from_pretrained(folder)
        pipe.scheduler = AtlasScheduler.of(pipe.scheduler, sampler="dpmpp-2m", grid="logistic-log-snr")
        images = pipe(num_inference_steps=10).images

    A pipeline calls `step` where a sampler calls its denoiser, so the sampler runs in a thread of its own and waits
    there for each prediction. Samplers with several calls a step work: `timesteps` lists every call.
    """

    order = 1
    init_noise_sigma = 1.0

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        sampler: Component = "dpmpp-2m",
        grid: Component = "logistic-log-snr",
        num_train_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        prediction_type: str = "epsilon",
    ) -> None:
        """`sampler`, `grid`: a name, or a table with `use`, as in a config. Raises ValueError for another schedule."""
        if beta_schedule not in SCHEDULES:
            raise ValueError(f"beta_schedule={beta_schedule!r}; valid: {', '.join(SCHEDULES)}")
        self._sampler: Sampler = _built("sampler", sampler)
        self._grid = _built("grid", grid)
        self._process: Process = build(
            "process",
            "atlas-diffusers:diffusers",
            steps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule=beta_schedule,
        )
        self._told = build("parametrization", "atlas-diffusers:diffusers", prediction=prediction_type)
        if "denoiser" not in self._sampler.accepts:
            raise ValueError(
                f"{sampler} integrates {', '.join(sorted(self._sampler.accepts))}, which no scheduler is given"
            )
        if self._sampler.stochastic:
            raise ValueError(
                "a stochastic sampler draws noise by sample, which a pipeline of diffusers does not number"
            )
        if self._sampler.nfe(1) is None:
            raise ValueError("a sampler that chooses its own steps cannot be stepped by a pipeline")
        self._steps = num_train_timesteps
        self._times = torch.empty(0)
        self._calls: list[Tensor] = []
        self._handoff: Handoff | None = None
        self._at = 0
        self.timesteps = torch.empty(0)
        self.num_inference_steps: int | None = None

    @classmethod
    def of(
        cls, scheduler: Any, *, sampler: Component = "dpmpp-2m", grid: Component = "logistic-log-snr"
    ) -> AtlasScheduler:
        """Take the place of `scheduler`, with its noise and its prediction type.

        Raises ValueError for noise that the process `diffusers` does not have, as rescaled or trained betas.
        """
        config: Mapping[str, Any] = scheduler.config
        unknown = [key for key in ("trained_betas", "rescale_betas_zero_snr", "use_flow_sigmas") if config.get(key)]
        if unknown or "beta_start" not in config:
            raise ValueError(f"{type(scheduler).__name__} adds noise in a way that is not there: {', '.join(unknown)}")
        kept = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
        taken: AtlasScheduler = cls(sampler=sampler, grid=grid, **{key: config[key] for key in kept if key in config})
        return taken

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Lay the grid, and find where the sampler will call."""
        self.close()
        self.num_inference_steps = num_inference_steps
        self._times = self._grid.times(self._process, num_inference_steps)
        asked = _Asked(self._process)
        for _ in self._sampler.steps(asked, torch.zeros(1, 1), self._times):
            pass
        self._calls, self._at = asked.times, 0
        timestep = getattr(self._process, "timestep")  # noqa: B009 - more than the contract of a process
        self.timesteps = timestep(torch.stack(self._calls)).to(device=device, dtype=torch.float32)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Return the sample: the process keeps unit variance."""
        return sample

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True, **unused: Any
    ) -> SchedulerOutput | tuple[Tensor]:
        """Hand the network's output to the sampler and return the state at which it calls next, or the result.

        Raises ValueError for a sample that is not the one that was returned last: a sampler that looks back, or calls
        twice a step, cannot be stepped by hand. `eta` and `generator` have no meaning for a deterministic sampler.
        """
        if not self._calls or self._at >= len(self._calls):
            raise ValueError("set_timesteps(…) comes before step(…), and there are no more steps than it made")
        if eta := unused.get("eta"):
            raise ValueError(f"eta={eta} has no effect on this sampler: choose another sampler")
        expected = float(self.timesteps[self._at])
        if abs(float(timestep) - expected) > 1e-3 * max(1.0, expected):
            raise ValueError(
                f"step {self._at} is at time step {expected:g}, not {float(timestep):g}: steps go in order"
            )
        if self._handoff is None:
            self._handoff = Handoff(self._sampler, self._process, sample, self._times)
        x, t = self._handoff.asked
        if sample.shape != x.shape or not torch.allclose(sample.to(x), x, rtol=1e-3, atol=1e-3):
            raise ValueError("the sample was changed between two steps, which the sampler cannot know of")
        _, skip, out, _ = (float(c) for c in self._told.coefficients(self._process, t))
        following = self._handoff.answer(skip * x + out * model_output.to(x))
        self._at += 1
        if self._at == len(self._calls):
            self.close()
        following = following.to(sample.dtype)
        return SchedulerOutput(prev_sample=following) if return_dict else (following,)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """α x₀ + σ z at these time steps."""
        t = (timesteps.double().cpu() + 1) / self._steps
        return self._process.mix(original_samples, noise, t)

    def close(self) -> None:
        """End a walk that was left before its end."""
        if self._handoff is not None:
            self._handoff.close()
            self._handoff = None

    def __len__(self) -> int:
        return self._steps


class _Asked:
    """Notes when it is called: the times of a sampler with fixed steps do not depend on what it is told."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.times: list[Tensor] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(t)
        return torch.zeros_like(x)

    def take(self, index: Tensor) -> Denoiser:
        return self


def _built(kind: str, given: Component) -> Any:
    if isinstance(given, str):
        return build(kind, given)
    table = dict(given)
    return build(kind, table.pop("use"), **table)
