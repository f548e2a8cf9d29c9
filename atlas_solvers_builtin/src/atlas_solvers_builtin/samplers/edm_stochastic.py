"""The sampler `edm-stochastic`."""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs
import torch
from attrs.validators import ge, gt
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource, Process, Step
from atlas_solvers_builtin.samplers.reverse_sde import Path


@attrs.frozen
class EDMStochastic:
    """`heun` as published, with churn: before each step a little noise is added, and removed with the rest.

    With ς = σ/α and y = x/α, in n steps: ς̂ = (1 + γ) ς, γ = min(churn/n, √2 − 1) where s_tmin ≤ ς ≤ s_tmax and else 0,

        ŷ = y + s_noise √(ς̂² − ς²) z,

    then Heun's step of the probability-flow ODE from ς̂ to the next ς. churn = 0 is `heun` with pairs = false. No
    step starts above the process's own largest noise, and pure noise (α = 0) is left as it is.
    """

    paper = "Karras et al. 2022, alg. 2"
    accepts = frozenset({"denoiser"})
    stochastic = True

    s_churn: float = attrs.field(
        default=40.0, validator=ge(0), metadata={"help": "Noise added over all steps, in units of ln σ; 0: none."}
    )
    s_tmin: float = attrs.field(default=0.05, validator=ge(0), metadata={"help": "Least σ/α at which noise is added."})
    s_tmax: float = attrs.field(
        default=50.0, validator=gt(0), metadata={"help": "Largest σ/α at which noise is added."}
    )
    s_noise: float = attrs.field(
        default=1.003,
        validator=gt(0),
        metadata={"help": "Inflation of the added noise: makes up for what an imperfect network removes too much."},
    )

    @s_tmax.validator
    def _above_s_tmin(self, attribute: object, value: float) -> None:
        if value <= self.s_tmin:
            raise ValueError(f"s_tmax must be above s_tmin = {self.s_tmin:g}, not {value:g}")

    def nfe(self, steps: int) -> int:
        """Two calls a step, and one for the last, which ends at σ = 0."""
        return 2 * steps - 1

    def steps(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, noise: NoiseSource | None = None
    ) -> Iterator[Step]:
        """Integrate x (b, *item) along times (n + 1,). Raises ValueError without a noise source."""
        process, s, t = denoiser.process, times[:-1], times[1:]
        path = Path(noise, "edm-stochastic", process, times)
        raised, scale, std = self._churned(process, s)
        keep, pull = (c.tolist() for c in process.ode_step(raised, t))
        correct = [p / (2 * k) if k > 0 else 0.0 for k, p in zip(keep, pull, strict=True)]
        for index, (start, end) in enumerate(zip(raised, t, strict=True)):
            if std[index]:
                x = path.add(scale[index] * x, std[index], index)
            x0 = denoiser(x, start)
            x = keep[index] * x + pull[index] * x0
            if correct[index]:
                x = x + correct[index] * (denoiser(x, end) - x0)
            yield Step(index, float(end), x, x0)

    def _churned(self, process: Process, s: Tensor) -> tuple[Tensor, list[float], list[float]]:
        """Return the times of ς̂, α̂/α and the std of the noise added to x, for steps from s (n,)."""
        level = torch.exp(-process.log_snr(s) / 2)
        most = torch.exp(-process.log_snr(torch.tensor(process.t_max, dtype=torch.float64)) / 2)
        gamma = min(self.s_churn / len(s), math.sqrt(2) - 1)
        churned = (level >= self.s_tmin) & (level <= self.s_tmax) & (level < most) & (gamma > 0)
        higher = torch.where(churned, torch.minimum((1 + gamma) * level, most), level)
        raised = torch.where(churned, process.time_of_log_snr(-2 * higher.log()).clamp(max=process.t_max), s)
        alpha = process.alpha(raised)
        scale = torch.where(churned, alpha / process.alpha(s), 1.0)
        std = torch.where(churned, self.s_noise * alpha * (higher.square() - level.square()).sqrt(), 0.0)
        return raised, scale.tolist(), std.tolist()
