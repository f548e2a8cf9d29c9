"""The sampler `dpmpp-sde`."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import torch
from attrs.validators import and_, gt, le
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource, Step
from atlas_solvers_builtin.samplers.reverse_sde import Path, eta_field, reverse_steps


@attrs.frozen
class DPMppSDE:
    """Look into the step before taking it: two calls a step, the second at λ_s + r h, on the same Brownian path.

        u   = keep_m x_s + pull_m x̂₀ + std_m z_m,        the first-order step to m, λ_m = λ_s + r h
        x_t = keep x_s + pull ((1 − 1/(2r)) x̂₀ + 1/(2r) x̂₀(u, m)) + std z.

    z_m and z are what one path does from s to m and from s to t. Out of pure noise h is infinite: there λ_m is
    λ_t − 1/(1 + η²), the mean under the weights of the exact integral, and x̂₀(u, m) alone counts. The step into data
    is of first order and costs one call.
    """

    paper = "Lu et al. 2022 (DPM-Solver++), SDE-DPM-Solver++(2S)"
    accepts = frozenset({"denoiser"})
    stochastic = True

    eta: float = eta_field()
    r: float = attrs.field(
        default=0.5, validator=and_(gt(0), le(1)), metadata={"help": "Where in the step, in log-SNR, it looks: (0, 1]."}
    )

    def nfe(self, steps: int) -> int:
        """Two calls a step, and one for the last, which ends at σ = 0."""
        return 2 * steps - 1

    def steps(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, noise: NoiseSource | None = None
    ) -> Iterator[Step]:
        """Integrate x (b, *item) along times (n + 1,). Raises ValueError without a noise source."""
        process, s, t = denoiser.process, times[:-1], times[1:]
        log_snr = process.log_snr(times)
        before, after = log_snr[:-1], log_snr[1:]
        endless = before.isinf()
        between = torch.where(endless, after - 2 / (1 + self.eta**2), torch.lerp(before, after, self.r))
        weight = torch.where(endless, 1.0, 1 / (2 * self.r)).tolist()
        middle = torch.where(after.isfinite(), process.time_of_log_snr(between), t)
        all_times = torch.stack([s, middle], 1).flatten()
        path = Path(noise, "dpmpp-sde", process, torch.cat([all_times, t[-1:]]))
        first, whole = reverse_steps(process, s, middle, self.eta), reverse_steps(process, s, t, self.eta)
        for index, (start, end) in enumerate(zip(s, t.tolist(), strict=True)):
            x0 = mean = denoiser(x, start)
            if middle[index] > end:  # not where the step goes into data
                ahead = first.keep[index] * x + first.pull[index] * x0
                ahead = path.add(ahead, first.std[index], 2 * index)
                mean = torch.lerp(x0, denoiser(ahead, middle[index]), weight[index])
            x = whole.keep[index] * x + whole.pull[index] * mean
            if whole.std[index]:
                x = x + path.draw(x, whole.std[index], 2 * index, 2 * index + 2)
            yield Step(index, end, x, x0)
