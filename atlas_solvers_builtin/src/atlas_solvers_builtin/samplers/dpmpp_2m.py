"""The sampler `dpmpp-2m`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource, Step
from atlas_solvers_builtin.samplers.linear_multistep import integrate
from atlas_solvers_builtin.samplers.multistep_plan import multistep_plan, relative
from atlas_solvers_builtin.samplers.safeguard import REACH_UNMENDED, reach_field


@attrs.frozen
class DPMpp2M:
    """Reuse the previous prediction to see where x̂₀ is heading: order 2 at one call a step.

    With λ = ½ log-SNR, h the step in λ and h' the one before,

        x_t = keep · x_s + pull · (x̂₀ + h/(2h') · (x̂₀ − x̂₀')).

    The first step has nothing to look back on, and where λ is infinite (σ_t = 0 at the end, α = 0 at the start) there
    is no line to extend: those steps are of first order. `multistep` of order 2 has the exact integral in place of h/2.
    """

    paper = "Lu et al. 2022 (DPM-Solver++), alg. 2"
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
        plan = multistep_plan(denoiser.process, times, order=2, rule=relative(line_to_the_middle), reach=self.reach)
        return integrate(denoiser, x, times, plan)


def line_to_the_middle(nodes: Sequence[float], span: float) -> tuple[float, ...]:
    """Return the shares of two predictions in the line through them, at half the step: 1 + h/(2h'), −h/(2h')."""
    ahead = span / (2 * (nodes[1] - nodes[0]))
    return 1 + ahead, -ahead
