"""The sampler `multistep`: the family that the multistep samplers by other names belong to."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from attrs.validators import and_, ge, in_, le
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource, Process, Step
from atlas_solvers_builtin.samplers.exponential_average import exponential_average
from atlas_solvers_builtin.samplers.linear_multistep import StepWeights, integrate
from atlas_solvers_builtin.samplers.logistic_average import logistic_average
from atlas_solvers_builtin.samplers.multistep_plan import multistep_plan, relative
from atlas_solvers_builtin.samplers.safeguard import reach_field


@attrs.frozen
class Multistep:
    """Look back on several predictions to see where x̂₀ is heading: any order at one call a step. Begin with this one.

    Exponential Adams–Bashforth: x̂₀ is replaced by the polynomial through the last `order` predictions, and the
    probability-flow ODE is solved exactly for it in λ = ½ log-SNR,

        x_t = keep · x_s + pull · Σ c_j x̂₀_j,   c_j = ∫ e^(λ−λ_t) L_j dλ / ∫ e^(λ−λ_t) dλ.

    With `corrector` the step is taken again, without a further call, when the prediction at its end is known (UniC).
    The polynomial is one in λ, as in DPM-Solver++ and UniPC, or in a logistic function of λ, in which paths are smooth
    from noise to data. Each step has the highest order that its length and its ratio to those before permit: `reach`.
    """

    paper = (
        "Lu et al. 2022 (DPM-Solver++), eq. 8; Zhao et al. 2023 (UniPC), alg. 1; Hochbruck & Ostermann 2010, sec. 2.5"
    )
    accepts = frozenset({"denoiser"})
    stochastic = False

    order: int = attrs.field(
        default=3, validator=and_(ge(1), le(6)), metadata={"help": "Predictions that a step looks back on; 1: Euler."}
    )
    corrector: bool = attrs.field(
        default=True, metadata={"help": "Mend each step by the prediction at its end; no further call."}
    )
    variable: str = attrs.field(
        default="logistic",
        validator=in_(("logistic", "log-snr")),
        metadata={"help": "What the polynomials are in: logistic (in log-SNR) or log-snr."},
    )
    ramp_down: bool = attrs.field(default=False, metadata={"help": "Lower the order in the last steps, too."})
    reach: float = reach_field()

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def plan(self, process: Process, times: Tensor) -> list[StepWeights]:
        """Return the numbers of all steps along times (n + 1,)."""
        return multistep_plan(
            process,
            times,
            order=self.order,
            rule=logistic_average if self.variable == "logistic" else relative(exponential_average),
            corrector=self.corrector,
            reach=self.reach,
            ramp_down=self.ramp_down,
        )

    def steps(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, noise: NoiseSource | None = None
    ) -> Iterator[Step]:
        """Integrate x (b, *item) along times (n + 1,)."""
        return integrate(denoiser, x, times, self.plan(denoiser.process, times))
