"""The sampler `heun`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import attrs
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource, Step


@attrs.frozen
class Heun:
    """Take an Euler step, look where it led, and average: order 2, two calls a step, one for the last.

    With D = x̂₀ and z = (x − αD)/σ at either end of the step, x_t = x_s + Δα · mean(D) + Δσ · mean(z). In terms of the
    first-order step x̂_t = keep · x_s + pull · D_s that is

        x_t = x̂_t + pull / (2 keep) · (D(x̂_t, t) − D_s),

    which is Karras et al. 2022, alg. 1 on EDM, and Heun in t on rectified flow; it stays finite where α_s = 0. A step
    to σ_t = 0 keeps x̂_t, as theirs does: keep is 0 there. Useless below ten calls, where `dpmpp-2m` is not.
    """

    paper = "Karras et al. 2022, alg. 1"
    accepts = frozenset({"denoiser"})
    stochastic = False

    def nfe(self, steps: int) -> int:
        """Two calls a step, and one for the last, which ends at σ = 0."""
        return 2 * steps - 1

    def steps(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, noise: NoiseSource | None = None
    ) -> Iterator[Step]:
        """Integrate x (b, *item) along times (n + 1,)."""
        keep, pull = (c.tolist() for c in denoiser.process.ode_step(times[:-1], times[1:]))
        correct = [p / (2 * k) if k > 0 else 0.0 for k, p in zip(keep, pull, strict=True)]
        for index, (s, t) in enumerate(pairwise(times)):
            x0 = denoiser(x, s)
            x = keep[index] * x + pull[index] * x0
            if correct[index]:
                x = x + correct[index] * (denoiser(x, t) - x0)
            yield Step(index, float(t), x, x0)
