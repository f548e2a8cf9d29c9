"""The sampler `unipc`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import attrs
from attrs.validators import and_, ge, in_, le
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource, Process, Step
from atlas_solvers_builtin.samplers.exponential_average import exponential_average
from atlas_solvers_builtin.samplers.linear_multistep import StepWeights, integrate
from atlas_solvers_builtin.samplers.multistep_plan import RelativeRule, multistep_plan, relative
from atlas_solvers_builtin.samplers.safeguard import reach_field


@attrs.frozen
class UniPC:
    """Predict and correct by one formula: `multistep` with its corrector, as UniPC's authors simplify its first orders.

    Two predictions, in the predictor of order 2 and in the corrector of order 1, are joined by a line taken at B(h)/2
    of pull: its middle for B = e^h − 1 (`bh2`, the authors' choice), h/(2(1 − e^(−h))) for B = h (`bh1`). From three on
    both are the exact integral of the polynomial. The order falls in the last steps.
    """

    paper = "Zhao et al. 2023 (UniPC), alg. 1–2, app. F"
    accepts = frozenset({"denoiser"})
    stochastic = False

    order: int = attrs.field(
        default=3, validator=and_(ge(1), le(6)), metadata={"help": "Predictions that the predictor looks back on."}
    )
    variant: str = attrs.field(
        default="bh2", validator=in_(("bh1", "bh2")), metadata={"help": "B(h) = h (bh1) or e^h − 1 (bh2)."}
    )
    reach: float = reach_field()

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def plan(self, process: Process, times: Tensor) -> list[StepWeights]:
        """Return the numbers of all steps along times (n + 1,)."""
        rule = relative(_first_orders_by(self.variant))
        return multistep_plan(
            process, times, order=self.order, rule=rule, corrector=True, reach=self.reach, ramp_down=True
        )

    def steps(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, noise: NoiseSource | None = None
    ) -> Iterator[Step]:
        """Integrate x (b, *item) along times (n + 1,)."""
        return integrate(denoiser, x, times, self.plan(denoiser.process, times))


@lru_cache(maxsize=2)
def _first_orders_by(variant: str) -> RelativeRule:
    def rule(nodes: Sequence[float], span: float) -> tuple[float, ...]:
        if len(nodes) > 2:
            return exponential_average(nodes, span)
        middle = 0.5 if variant == "bh2" else -span / (2 * math.expm1(-span))
        first, second = nodes
        if first == 0:  # the corrector: the prediction at the end, then the one at the start
            return middle, 1 - middle
        ahead = middle * span / (second - first)
        return 1 + ahead, -ahead

    return rule
