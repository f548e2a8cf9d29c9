"""The guidance `cfg-interval`."""

from __future__ import annotations

import math
from typing import Any

import attrs
from attrs.validators import ge
from torch import Tensor

from atlas_core.contracts import GuidanceContext
from atlas_solvers_builtin.guidance.extrapolation import extrapolate, wanted


@attrs.frozen
class ClassifierFreeInterval:
    """Guide as `cfg` does, at medium noise alone: the variety of no guidance, most of its fidelity, at less cost.

    D = D_uncond + scale · (D_cond − D_uncond) where low < σ/α ≤ high, D_cond elsewhere, at one forward pass. At high
    noise guidance decides too early which image it will be; at low noise there is nothing left to decide. The defaults
    are the paper's for EDM2-S, whose data have deviation 0.5.
    """

    paper = "Kynkäänniemi et al. 2024, eq. 6 and table 1"
    needs = frozenset({"unconditional"})
    stateful = False

    scale: float = attrs.field(default=2.1, metadata={"help": "1: no guidance; above: closer to the condition."})
    low: float = attrs.field(
        default=0.28, validator=ge(0), metadata={"help": "Noise level σ/α up to which there is no guidance."}
    )
    high: float = attrs.field(
        default=2.9,
        metadata={"help": "Noise level σ/α beyond which there is no guidance; above low.", "infinite": True},
    )

    @high.validator
    def _above_low(self, attribute: object, value: float) -> None:
        if not value > self.low:
            raise ValueError(f"high must be above low = {self.low:g}, not {value:g}: the interval would be empty")

    def refers(self, log_snr: Tensor) -> Tensor:
        """Return whether low < σ/α ≤ high, and scale is not 1: bool, of the shape of log_snr."""
        # In logarithms, where the ends of a process are finite or infinite as they should be.
        least = -2 * math.log(self.high)
        most = -2 * math.log(self.low) if self.low else math.inf
        within = (log_snr >= least) & (log_snr < most)
        return within & wanted(self.scale, log_snr)

    def __call__(self, context: GuidanceContext, state: Any) -> tuple[Tensor, Any]:
        """Return the extrapolated prediction (b, *item); without a reference, the conditional one."""
        if context.d_ref is None:
            return context.d_cond, state
        return extrapolate(context, self.scale), state
