"""The sampler `sa-solver`."""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs
import torch
from attrs.validators import ge, gt
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource, Step
from atlas_solvers_builtin.samplers.reverse_sde import Path, eta_field, extrapolation, mean_place, reverse_steps


@attrs.frozen
class SASolver:
    """Look back one step, walk with noise, mend the step when its end is known: the stochastic sampler to begin with.

    With h the step in λ = ½ log-SNR, h' the one before and keep, pull, std those of the reverse SDE,

        predict  x_p = keep · x_s + pull · (x̂₀ + min(h/2, lookahead)/h' · (x̂₀ − x̂₀')) + std · z
        correct  x_t = keep · x_s + pull · mean(x̂₀, x̂₀(x_p, t)) + std · z,   the same z,

    where the mean is that of the line through both under the weight of the exact solution, and x̂₀(x_p, t) is the next
    step's own prediction: one call a step. The predictor is the paper's two-step one but for terms of order h³: the
    exact integral, and a third step, extrapolate what the noise has done to x̂₀, too, and on mixtures leave 1.2 to 2
    times the error. No prediction is extrapolated by more than `lookahead`, since x̂₀ turns over about one unit of λ:
    without it ten steps of the ρ-grid are worse than a first-order sampler's, with it two to three times better.

    η may be confined to noise levels low ≤ σ/α ≤ high, at the start of a step; outside, the sampler is deterministic.
    """

    paper = "Xue et al. 2023 (SA-Solver), alg. 1, with data prediction"
    accepts = frozenset({"denoiser"})
    stochastic = True

    eta: float = eta_field()
    low: float = attrs.field(
        default=0.0, validator=ge(0), metadata={"help": "Least σ/α at which there is noise; the paper: 0.05."}
    )
    high: float = attrs.field(
        default=math.inf, validator=gt(0), metadata={"help": "Largest σ/α at which there is noise; the paper: 1 to 50."}
    )
    lookahead: float = attrs.field(
        default=0.35,
        validator=ge(0),
        metadata={"help": "How far x̂₀ is extrapolated, in ½ log-SNR, at the most; 0: not."},
    )
    corrector: bool = attrs.field(
        default=True, metadata={"help": "Mend each step by the prediction at its end; no further call."}
    )

    @high.validator
    def _above_low(self, attribute: object, value: float) -> None:
        if value <= self.low:
            raise ValueError(f"high must be above low = {self.low:g}, not {value:g}")

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def steps(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, noise: NoiseSource | None = None
    ) -> Iterator[Step]:
        """Integrate x (b, *item) along times (n + 1,). Raises ValueError without a noise source."""
        process = denoiser.process
        path = Path(noise, "sa-solver", process, times)
        level = torch.exp(-process.log_snr(times[:-1]) / 2)
        eta = torch.where((level >= self.low) & (level <= self.high), self.eta, 0.0)
        step = reverse_steps(process, times[:-1], times[1:], eta)
        extend = extrapolation(process, times, self._ahead)
        mend = [
            mean_place(rate * h) if self.corrector and math.isfinite(h) else 0.0
            for h, rate in zip(step.h, step.rate, strict=True)
        ]
        base = previous = x
        for index, (s, t) in enumerate(zip(times[:-1], times[1:].tolist(), strict=True)):
            x0 = denoiser(x, s)
            if index and mend[index - 1]:
                x = base + (step.pull[index - 1] * mend[index - 1]) * (x0 - previous)
            base = x = path.add(step.keep[index] * x + step.pull[index] * x0, step.std[index], index)
            if extend[index]:
                x = base + (step.pull[index] * extend[index]) * (x0 - previous)
            previous = x0
            yield Step(index, t, x, x0)

    def _ahead(self, h: float) -> float:
        return min(h / 2, self.lookahead)
