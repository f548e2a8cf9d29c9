"""The first-order sampler, in the form that all the others refine."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource, Step


@attrs.frozen
class Euler:
    """Follow the probability-flow ODE with x̂₀ frozen over each step: order 1, one call a step.

    From s to t:  x_t = keep · x_s + pull · x̂₀(x_s, s), where the process knows keep = σ_t / σ_s and
    pull = α_t − α_s σ_t / σ_s.

    This one formula is DDIM with η = 0 on variance-preserving processes (Song et al. 2021, eq. 12), Euler in σ on EDM
    (Karras et al. 2022, alg. 1 without its second half) and Euler in t on rectified flow; it stays finite where
    α_s = 0.
    """

    paper = "Song, Meng & Ermon 2021, eq. 12"
    accepts = frozenset({"denoiser"})
    stochastic = False

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def steps(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, noise: NoiseSource | None = None
    ) -> Iterator[Step]:
        """Integrate x (b, *item) along times (n + 1,)."""
        keep, pull = (c.tolist() for c in denoiser.process.ode_step(times[:-1], times[1:]))
        for index, (s, t) in enumerate(zip(times[:-1], times[1:].tolist(), strict=True)):
            x0 = denoiser(x, s)
            x = keep[index] * x + pull[index] * x0
            yield Step(index, t, x, x0)
