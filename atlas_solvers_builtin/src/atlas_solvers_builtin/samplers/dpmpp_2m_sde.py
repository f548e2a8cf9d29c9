"""The sampler `dpmpp-2m-sde`."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from attrs.validators import in_
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource, Step
from atlas_solvers_builtin.samplers.reverse_sde import Path, eta_field, extrapolation, mean_place, reverse_steps


@attrs.frozen
class DPMpp2MSDE:
    """`dpmpp-2m` with the noise of the reverse process: x̂₀ is extrapolated from the step before, at one call a step.

    With h the step in λ = ½ log-SNR, h' the one before and keep, pull, std those of the reverse SDE,

        x_t = keep · x_s + pull · (x̂₀ + r · (x̂₀ − x̂₀')) + std · z,

    r = h/(2h') in the midpoint form, r = (h/h') (1/(1 − e^−c) − 1/c) with c = (1 + η²)h, the integral of a line, in the
    form called heun. η = 0 with midpoint is `dpmpp-2m` without its safeguard: as published, it extrapolates over steps
    of any length. Below 15 calls on the ρ-grid a first-order sampler is better, and `sa-solver` is everywhere. With
    noise neither form is of more than strong order 1.
    """

    paper = "Lu et al. 2022 (DPM-Solver++), SDE-DPM-Solver++(2M)"
    accepts = frozenset({"denoiser"})
    stochastic = True

    eta: float = eta_field()
    form: str = attrs.field(
        default="midpoint",
        validator=in_(("midpoint", "heun")),
        metadata={"help": "How far x̂₀ is extrapolated: midpoint or heun; heun overshoots on long steps."},
    )

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def steps(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, noise: NoiseSource | None = None
    ) -> Iterator[Step]:
        """Integrate x (b, *item) along times (n + 1,). Raises ValueError without a noise source."""
        process = denoiser.process
        path = Path(noise, "dpmpp-2m-sde", process, times)
        step = reverse_steps(process, times[:-1], times[1:], self.eta)
        extend = extrapolation(process, times, self._ahead)
        previous: Tensor | None = None
        for index, (s, t) in enumerate(zip(times[:-1], times[1:].tolist(), strict=True)):
            x0 = denoiser(x, s)
            ahead = x0 if previous is None or not extend[index] else x0 + extend[index] * (x0 - previous)
            x, previous = path.add(step.keep[index] * x + step.pull[index] * ahead, step.std[index], index), x0
            yield Step(index, t, x, x0)

    def _ahead(self, h: float) -> float:
        return h / 2 if self.form == "midpoint" else h * mean_place((1 + self.eta**2) * h)
