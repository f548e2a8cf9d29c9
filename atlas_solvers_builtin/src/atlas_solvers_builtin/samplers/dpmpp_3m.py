"""The sampler `dpmpp-3m`."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource, Step
from atlas_solvers_builtin.samplers.exponential_average import exponential_average
from atlas_solvers_builtin.samplers.linear_multistep import integrate
from atlas_solvers_builtin.samplers.multistep_plan import multistep_plan, relative
from atlas_solvers_builtin.samplers.safeguard import REACH_UNMENDED, reach_field


@attrs.frozen
class DPMpp3M:
    """Lay a parabola through three predictions: order 3 at one call a step.

    With h the step in λ, h' and h'' those before, D' = (D_0 − D_1)/h', D'' = (D_1 − D_2)/h'',
    D₂ = (D' − D'')/(h' + h'') and D₁ = D' + h' D₂,

        x_t = keep · x_s + pull · D_0 + α_t (φ₁ D₁ + φ₂ D₂),  φ₁ = h − 1 + e^(−h),  φ₂ = h² − 2 φ₁.

    The authors' code, and that of the libraries, halves the last term, and is of order 2. No corrector; the last step
    but one is of order 2, as theirs.
    """

    paper = "Lu et al. 2022 (DPM-Solver++), appendix B, with the whole second derivative"
    accepts = frozenset({"denoiser"})
    stochastic = False

    reach: float = reach_field(REACH_UNMENDED)

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def steps(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, noise: NoiseSource | None = None
    ) -> Iterator[Step]:
        """Integrate x (b, *item) along times (n + 1,)."""
        plan = multistep_plan(
            denoiser.process, times, order=3, rule=relative(exponential_average), reach=self.reach, ramp_down=True
        )
        return integrate(denoiser, x, times, plan)
