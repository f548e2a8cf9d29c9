"""The guidance `cfg-rescale`."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from attrs.validators import and_, ge, le
from torch import Tensor

from atlas_core.contracts import GuidanceContext
from atlas_solvers_builtin.guidance.extrapolation import extrapolate, wanted


@attrs.frozen
class ClassifierFreeRescaled:
    """Guide as `cfg` does, and take back the contrast that it adds: no blown-out images at a large scale.

    D = (φ std(D_cond) / std(D_cfg) + 1 − φ) · D_cfg, with the standard deviation over all values of one sample: at
    φ = 1 that of the conditional prediction, at φ = 0 `cfg`. The paper applies it to the network's output, this to x̂₀,
    so that one φ means one thing whatever the network was trained to say.
    """

    paper = "Lin et al. 2023 (Common diffusion noise schedules), eq. 15-16"
    needs = frozenset({"unconditional"})
    stateful = False

    scale: float = attrs.field(default=3.0, metadata={"help": "1: no guidance; above: closer to the condition."})
    rescale: float = attrs.field(
        default=0.7,
        validator=and_(ge(0), le(1)),
        metadata={"help": "φ: how much of the added contrast is taken back, 0 to 1."},
    )

    def refers(self, log_snr: Tensor) -> Tensor:
        """Everywhere, unless scale is 1: bool, of the shape of log_snr."""
        return wanted(self.scale, log_snr)

    def __call__(self, context: GuidanceContext, state: Any) -> tuple[Tensor, Any]:
        """Return the rescaled prediction (b, *item); of items of one value, which have no contrast, that of `cfg`."""
        if self.scale == 1:
            return context.d_cond, state
        guided = extrapolate(context, self.scale)
        wanted, found = (_contrast(x) for x in (context.d_cond, guided))
        factor = self.rescale * torch.where(found > 0, wanted / found, 1.0) + (1 - self.rescale)
        return factor * guided, state


def _contrast(x: Tensor) -> Tensor:
    """The standard deviation of each row, (b, 1, …)."""
    return x.flatten(1).std(1, correction=0).view(-1, *[1] * (x.ndim - 1))
