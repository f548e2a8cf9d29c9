"""The sampler `euler-ancestral`."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import torch
from attrs.validators import and_, ge, le
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource, Step
from atlas_solvers_builtin.samplers.reverse_sde import Path


@attrs.frozen
class EulerAncestral:
    """Step further down than asked, and come back with noise: DDIM with any η, on every process.

    With β̃ = σ_t² (1 − SNR_s/SNR_t), the variance of the process's posterior, and std = η √β̃,

        x_t = √(σ_t² − std²)/σ_s · x_s + (α_t − α_s √(σ_t² − std²)/σ_s) · x̂₀ + std · z.

    η = 0 is `euler`, to the last bit; η = 1 is `ddpm-ancestral`. Order 1.
    """

    paper = "Song, Meng & Ermon 2021, eq. 12 and 16"
    accepts = frozenset({"denoiser"})
    stochastic = True

    eta: float = attrs.field(
        default=1.0,
        validator=and_(ge(0), le(1)),
        metadata={"help": "Noise of a step, as a share of the process's own: 0 none, 1 all."},
    )

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def steps(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, noise: NoiseSource | None = None
    ) -> Iterator[Step]:
        """Integrate x (b, *item) along times (n + 1,). Raises ValueError without a noise source."""
        process, s, t = denoiser.process, times[:-1], times[1:]
        path = Path(noise, "euler-ancestral", process, times)
        full, _ = process.ode_step(s, t)
        share = -torch.expm1(process.log_snr(s) - process.log_snr(t)) * self.eta**2
        kept = full * (1 - share).sqrt()
        std = (process.sigma(t) * share.sqrt()).tolist()
        keep, pull = kept.tolist(), (process.alpha(t) - process.alpha(s) * kept).tolist()
        for index, (start, end) in enumerate(zip(s, t.tolist(), strict=True)):
            x0 = denoiser(x, start)
            x = path.add(keep[index] * x + pull[index] * x0, std[index], index)
            yield Step(index, end, x, x0)
