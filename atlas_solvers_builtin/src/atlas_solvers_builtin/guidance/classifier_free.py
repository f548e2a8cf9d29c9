"""The guidance `cfg`."""

from __future__ import annotations

from typing import Any

import attrs
from torch import Tensor

from atlas_core.contracts import GuidanceContext
from atlas_solvers_builtin.guidance.extrapolation import extrapolate, wanted


@attrs.frozen
class ClassifierFree:
    """Push samples towards their condition, away from what the network draws without one.

    D = D_uncond + scale · (D_cond − D_uncond): 1 is no guidance, 0 ignores the condition, above 1 trades variety for
    fidelity. On x̂₀ and on the noise it is the same formula. The network has to have been trained with dropped
    conditions; each call costs two forward passes, one if scale is 1.
    """

    paper = "Ho & Salimans 2022, eq. 6 (their w is scale − 1)"
    needs = frozenset({"unconditional"})
    stateful = False

    scale: float = attrs.field(default=1.5, metadata={"help": "1: no guidance; above: closer to the condition."})

    def refers(self, log_snr: Tensor) -> Tensor:
        """Everywhere, unless scale is 1: bool, of the shape of log_snr."""
        return wanted(self.scale, log_snr)

    def __call__(self, context: GuidanceContext, state: Any) -> tuple[Tensor, Any]:
        """Return the extrapolated prediction (b, *item). Raises ValueError without an unconditional prediction."""
        return extrapolate(context, self.scale), state
