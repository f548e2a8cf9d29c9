"""The sampler `deis`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
from attrs.validators import and_, ge, le
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource, Process, Step
from atlas_solvers_builtin.samplers.exponential_average import exponential_average
from atlas_solvers_builtin.samplers.linear_multistep import StepWeights, integrate
from atlas_solvers_builtin.samplers.multistep_plan import half_log_snr, step_shares
from atlas_solvers_builtin.samplers.safeguard import REACH_UNMENDED, reach_field


@attrs.frozen
class DEIS:
    """Look back on predictions of the noise rather than of the data: any order at one call a step.

    ε̂ = (x − α x̂₀)/σ is replaced by the polynomial in ln(σ/α) through the last `order` of them, and
    d(x/α) = ε̂ d(σ/α) solved exactly for it (log-ρ Adams–Bashforth). As the first-order step with its correction,

        x_t = keep · x_s + pull · x̂₀ + (σ_t − α_t σ_s/α_s) · Σ c_j (ε̂_j − ε̂_0),

    which stays finite where α_s = 0: there, and to σ_t = 0, the step is of first order. The order falls in the last
    steps.
    """

    paper = "Zhang & Chen 2023 (DEIS), sec. 3.3 (log-ρ)"
    accepts = frozenset({"denoiser"})
    stochastic = False

    order: int = attrs.field(
        default=3, validator=and_(ge(1), le(6)), metadata={"help": "Predictions that a step looks back on; 1: Euler."}
    )
    reach: float = reach_field(REACH_UNMENDED)

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def plan(self, process: Process, times: Tensor) -> list[StepWeights]:
        """Return the numbers of all steps along times (n + 1,)."""
        shares = step_shares(
            half_log_snr(process, times), order=self.order, rule=_from_the_start, reach=self.reach, ramp_down=True
        )
        keeps, pulls = (c.tolist() for c in process.ode_step(times[:-1], times[1:]))
        alphas, sigmas = process.alpha(times).tolist(), process.sigma(times).tolist()
        plan = []
        for index, (keep, pull, (_, *others)) in enumerate(zip(keeps, pulls, shares, strict=True)):
            alpha, sigma = alphas[index], sigmas[index]
            # Only at α_s = 0 the factor is infinite, and there are no others there.
            factor = sigmas[index + 1] - alphas[index + 1] * sigma / alpha if others else 0.0
            moved = factor * sum(others) / sigma
            predict = (keep - moved, pull + moved * alpha, *(factor * share for share in others))
            plan.append(StepWeights(predict, remember=(1 / sigma, -alpha / sigma)))
        return plan

    def steps(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, noise: NoiseSource | None = None
    ) -> Iterator[Step]:
        """Integrate x (b, *item) along times (n + 1,)."""
        return integrate(denoiser, x, times, self.plan(denoiser.process, times))


def _from_the_start(known: Sequence[float], now: float, after: float) -> tuple[float, ...]:
    """As `exponential_average`, with the weight e^(−(λ − λ_s)) of predictions of noise."""
    return exponential_average([one - now for one in known], after - now)
