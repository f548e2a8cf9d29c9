"""The guidance `apg`."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from attrs.validators import and_, gt, lt, optional
from torch import Tensor

from atlas_core.contracts import GuidanceContext
from atlas_solvers_builtin.guidance.extrapolation import dot, reference, wanted


@attrs.frozen
class AdaptiveProjected:
    """Guide at a large scale without oversaturation: leave out the part of the push that only makes x̂₀ larger.

    With Δ = D_cond − D_uncond, first Δ ← Δ + momentum · Δ_before (a negative momentum damps what repeats itself), then
    Δ ← Δ · min(1, radius / |Δ|), then D = D_cond + (scale − 1) · (Δ_⊥ + eta · Δ_∥), where Δ_∥ is the part along
    D_cond. Norms and products are those of one sample. With momentum = 0, eta = 1 and no radius it is `cfg`.

    Momentum is a state that each sample carries from call to call: a sampler calls twice a step if it looks twice.
    """

    paper = "Sadat, Hilliges & Weber 2024, algorithm 1"
    needs = frozenset({"unconditional"})

    scale: float = attrs.field(default=4.0, metadata={"help": "1: no guidance; above: closer to the condition."})
    eta: float = attrs.field(
        default=0.0, metadata={"help": "How much of the push along x̂₀ itself is kept, which saturates; 1: all."}
    )
    momentum: float = attrs.field(
        default=-0.5,
        validator=and_(gt(-1), lt(1)),
        metadata={"help": "Weight of the push of the call before, -1 to 1; 0: none, and no state."},
    )
    radius: float | None = attrs.field(
        default=None,
        validator=optional(gt(0)),
        metadata={"help": "Largest norm of the push of one sample; null: any. 2.5 for EDM2's latents."},
    )

    @property
    def stateful(self) -> bool:
        """Whether there is momentum."""
        return self.momentum != 0

    def refers(self, log_snr: Tensor) -> Tensor:
        """Everywhere, unless scale is 1: bool, of the shape of log_snr."""
        return wanted(self.scale, log_snr)

    def __call__(self, context: GuidanceContext, state: Any) -> tuple[Tensor, Any]:
        """Return the guided prediction, and the push as state, (b, *item) both. Raises ValueError without reference."""
        if self.scale == 1:
            return context.d_cond, state
        push = context.d_cond - reference(context)
        if self.stateful:
            push = state = push if state is None else push + self.momentum * state
        if self.radius is not None:
            push = push * (self.radius / dot(push, push).sqrt()).clamp(max=1)
        if self.eta != 1:
            size = dot(context.d_cond, context.d_cond)
            along = torch.where(size > 0, dot(push, context.d_cond) / size, 0.0) * context.d_cond
            push = push - (1 - self.eta) * along
        return context.d_cond + (self.scale - 1) * push, state
