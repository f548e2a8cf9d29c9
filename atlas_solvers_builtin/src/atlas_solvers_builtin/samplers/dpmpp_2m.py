"""The sampler `dpmpp-2m`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import attrs
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource, Step


@attrs.frozen
class DPMpp2M:
    """Reuse the previous prediction to see where x̂₀ is heading: order 2 at one call a step.

    With λ = ½ log-SNR, h the step in λ and h' the one before,

        x_t = keep · x_s + pull · (x̂₀ + h/(2h') · (x̂₀ − x̂₀')).

    The first step has nothing to look back on, and where λ is infinite (σ_t = 0 at the end, α = 0 at the start) there
    is no line to extend: those steps are of first order.
    """

    paper = "Lu et al. 2022 (DPM-Solver++), alg. 2"
    accepts = frozenset({"denoiser"})
    stochastic = False

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def steps(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, noise: NoiseSource | None = None
    ) -> Iterator[Step]:
        """Integrate x (b, *item) along times (n + 1,)."""
        process = denoiser.process
        keep, pull = (c.tolist() for c in process.ode_step(times[:-1], times[1:]))
        extend = extrapolation(process.log_snr(times).tolist())
        previous: Tensor | None = None
        for index, (s, t) in enumerate(zip(times[:-1], times[1:].tolist(), strict=True)):
            x0 = denoiser(x, s)
            ahead = x0 if previous is None or not extend[index] else x0 + extend[index] * (x0 - previous)
            x, previous = keep[index] * x + pull[index] * ahead, x0
            yield Step(index, t, x, x0)


def extrapolation(log_snr: list[float]) -> list[float]:
    """Return h/(2h') of each step, 0 where it is of first order: n + 1 numbers -> n."""
    steps = [after - before for before, after in pairwise(log_snr)]
    ratios = [h / (2 * last) if math.isfinite(h) else 0.0 for last, h in pairwise(steps)]
    return [0.0, *ratios]
