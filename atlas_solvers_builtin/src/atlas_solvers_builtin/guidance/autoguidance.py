"""The guidance `autoguidance`."""

from __future__ import annotations

from typing import Any, Literal, get_args

import attrs
from attrs.validators import in_
from torch import Tensor

from atlas_core.contracts import GuidanceContext, WeakModel
from atlas_solvers_builtin.guidance.extrapolation import extrapolate, wanted

Weights = Literal["ema", "raw"]


@attrs.frozen
class Autoguidance:
    """Push samples away from the mistakes of a weaker model of the same data: better images, and no less variety.

    D = D_weak + scale · (D − D_weak). The weak model is told the same condition, or none if it takes none: so this
    guides unconditional models, too. Trained less, or smaller, it makes the mistakes of the strong one, only larger.
    Every call costs a forward pass of each.
    """

    paper = "Karras et al. 2024 (Guiding a diffusion model with a bad version of itself), eq. 3"
    needs = frozenset({"weak-model"})
    stateful = False

    scale: float = attrs.field(default=2.0, metadata={"help": "1: no guidance; above: away from the weak model."})
    checkpoint: str = attrs.field(
        default="",
        metadata={
            "help": "Weak model: a run folder, a checkpoint, or one of the run itself, as step-00000500; unset: the "
            "earliest that the run kept (train.keep_checkpoints)."
        },
    )
    weights: Weights = attrs.field(
        default="ema",
        validator=in_(get_args(Weights)),
        metadata={"help": "The moving average of the weak model's weights, or the weights as they were."},
    )

    @property
    def weak_model(self) -> WeakModel:
        """Which network it leads away from."""
        return WeakModel(self.checkpoint, self.weights)

    def refers(self, log_snr: Tensor) -> Tensor:
        """Everywhere, unless scale is 1: bool, of the shape of log_snr."""
        return wanted(self.scale, log_snr)

    def __call__(self, context: GuidanceContext, state: Any) -> tuple[Tensor, Any]:
        """Return the extrapolated prediction (b, *item). Raises ValueError without that of the weak model."""
        return extrapolate(context, self.scale), state
