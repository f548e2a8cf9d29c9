"""The sampler `ddpm-ancestral`."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource, Step
from atlas_solvers_builtin.samplers.reverse_sde import Path


@attrs.frozen
class DDPMAncestral:
    """Walk the chain backwards as DDPM does, with fresh noise in every step, which forgets earlier errors.

    x_t ~ p(x_t | x_s, x₀ = x̂₀(x_s, s)) = N(keep · x_s + pull · x̂₀, std²), the process's posterior: on vp-linear the
    sampler of Ho et al. with the variance β̃, elsewhere the same chain for that α and σ. The last step adds no noise.
    The noise is one Brownian path in the SNR: with more steps a sample converges, rather than becoming another one.
    """

    paper = "Ho, Jain & Abbeel 2020, alg. 2 and eq. 6–7"
    accepts = frozenset({"denoiser"})
    stochastic = True

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def steps(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, noise: NoiseSource | None = None
    ) -> Iterator[Step]:
        """Walk x (b, *item) along times (n + 1,). Raises ValueError without a noise source."""
        path = Path(noise, "ddpm-ancestral", denoiser.process, times)
        keep, pull, std = (c.tolist() for c in denoiser.process.posterior(times[:-1], times[1:]))
        for index, (s, t) in enumerate(zip(times[:-1], times[1:].tolist(), strict=True)):
            x0 = denoiser(x, s)
            x = path.add(keep[index] * x + pull[index] * x0, std[index], index)
            yield Step(index, t, x, x0)
