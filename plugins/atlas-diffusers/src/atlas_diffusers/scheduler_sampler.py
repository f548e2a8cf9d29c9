"""The sampler `diffusers`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource, Step
from atlas_diffusers.schedulers import WANTS_NOISE, lay, made, says_the_sample, scale, space_of

_STOCHASTIC = ("Ancestral", "DDPM", "LCM", "TCD", "SDE", "SASolver")


@attrs.frozen
class SchedulerSampler:
    """Any scheduler of diffusers with one call a step, on any process and grid of Atlas.

    The scheduler keeps its own state and is handed x̂₀; it steps at the noise levels of the grid, where it can be told
    them (those with `sigmas`), else at its own, for which there is the grid `diffusers`. Its noise comes from one
    generator a sample, so that a sample is the same in any batch.
    """

    accepts = frozenset({"denoiser"})

    scheduler: str = attrs.field(
        default="DPMSolverMultistepScheduler", metadata={"help": "Name of its class in diffusers."}
    )
    options: dict[str, Any] = attrs.field(
        factory=dict, metadata={"help": "Its settings, as solver_order or algorithm_type."}
    )

    @scheduler.validator
    def _known(self, attribute: object, value: str) -> None:
        made(value, {})

    @property
    def stochastic(self) -> bool:
        """True for ancestral and SDE schedulers."""
        sde = str(self.options.get("algorithm_type", "")).startswith("sde")
        return (
            sde or any(part in self.scheduler for part in _STOCHASTIC) or bool(self.options.get("stochastic_sampling"))
        )

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def steps(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, noise: NoiseSource | None = None
    ) -> Iterator[Step]:
        """Integrate x (b, *item) along times (n + 1,) that end at 0. Raises ValueError."""
        if float(times[-1]) != 0:
            raise ValueError("a scheduler of diffusers walks to the data: times must end at 0")
        scheduler = made(self.scheduler, says_the_sample(self.scheduler, self.options))
        scheduler.set_timesteps(len(times) - 1)
        process = denoiser.process
        lay(scheduler, torch.exp(-process.log_snr(times[:-1]) / 2))
        space, generators = space_of(scheduler), self._generators(noise, x)
        alphas, sigmas = process.alpha(times).tolist(), process.sigma(times).tolist()
        scales = [scale(space, *pair) for pair in zip(alphas, sigmas, strict=True)]
        state = x * scales[0]
        for index, (s, t) in enumerate(zip(times[:-1], times[1:].tolist(), strict=True)):
            x0 = denoiser(state / scales[index], s)
            at = scheduler.timesteps[index]
            if hasattr(scheduler, "scale_model_input"):  # some of them insist
                scheduler.scale_model_input(state, at)
            said = x0
            if space == "flow":  # velocity z − x₀, from the state (1 − s) x₀ + s z
                said = (state - x0) * ((alphas[index] + sigmas[index]) / sigmas[index])
            elif self.scheduler in WANTS_NOISE:
                said = (state - x0) * (alphas[index] / sigmas[index])
            state = scheduler.step(said, at, state, **generators).prev_sample.to(x.dtype)
            yield Step(index, t, state / scales[index + 1], x0)

    def _generators(self, noise: NoiseSource | None, x: Tensor) -> dict[str, Any]:
        if not self.stochastic:
            return {}
        if noise is None:
            raise ValueError(f"{self.scheduler} draws noise: pass noise=…, a NoiseSource with one row a sample")
        seeds = (noise.uniform("diffusers", 0) * 2**53).long().tolist()
        return {"generator": [torch.Generator(x.device).manual_seed(seed) for seed in seeds]}
