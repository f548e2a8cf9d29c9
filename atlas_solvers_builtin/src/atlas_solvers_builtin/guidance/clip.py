"""The guidance `clip`: clipping and dynamic thresholding."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from attrs.validators import and_, gt, lt, optional
from torch import Tensor

from atlas_core import component, derived
from atlas_core.contracts import Guidance, GuidanceContext, WeakModel


@attrs.frozen
class Clip:
    """Keep each prediction within the range of the data, after another guidance has pushed it.

    Without `quantile`, D = clamp(D, low, high): values that guidance has pushed out of range are cut, and stay at the
    end of the range, where images look saturated. With it, the range is widened to hold that part of a sample's
    values, and then all of the sample is scaled down to fit (dynamic thresholding): in units of half the range from
    its middle, s = max(1, the quantile of |D|), D = clamp(D, −s, s) / s, so that what was pushed out comes back in, and
    contrast between bright values is kept. A prediction within the range is not changed by either.
    """

    paper = "Saharia et al. 2022 (Imagen), section 2.3 and appendix C"

    limits: tuple[float, float] = derived("data.range", help="Least and largest value of the data, as (-1, 1).")
    quantile: float | None = attrs.field(
        default=None,
        validator=optional(and_(gt(0), lt(1))),
        metadata={"help": "Part of a sample's values that is kept apart, as 0.995; null: plain clipping."},
    )
    guidance: Guidance = component(
        "guidance", default="atlas-solvers-builtin:none", help="What is applied first, as { use = 'cfg', scale = 8 }."
    )

    @limits.validator
    def _ordered(self, attribute: object, value: tuple[float, float]) -> None:
        if not (len(value) == 2 and math.isfinite(value[0]) and math.isfinite(value[1]) and value[0] < value[1]):
            raise ValueError(f"limits are the least and the largest value of the data, as (-1, 1); not {value}")

    @property
    def needs(self) -> frozenset[str]:
        """What the guidance inside needs."""
        return self.guidance.needs

    @property
    def stateful(self) -> bool:
        """Whether the guidance inside is."""
        return self.guidance.stateful

    @property
    def weak_model(self) -> WeakModel:
        """That of the guidance inside."""
        weak: WeakModel = self.guidance.weak_model  # type: ignore[attr-defined]
        return weak

    def refers(self, log_snr: Tensor) -> Tensor:
        """Where the guidance inside wants its reference: bool, of the shape of log_snr."""
        inside = getattr(self.guidance, "refers", None)
        everywhere = torch.full_like(log_snr, bool(self.needs), dtype=torch.bool)
        return everywhere if inside is None else everywhere & inside(log_snr)

    def __call__(self, context: GuidanceContext, state: Any) -> tuple[Tensor, Any]:
        """Return the prediction within the limits (b, *item), and the state of the guidance inside."""
        guided, state = self.guidance(context, state)
        low, high = self.limits
        if self.quantile is None:
            return guided.clamp(low, high), state
        middle, half = (low + high) / 2, (high - low) / 2
        centred = (guided - middle) / half
        sizes = centred.abs().flatten(1)
        rank = math.ceil(self.quantile * sizes.shape[1])  # of all that are no larger, so that no size is too large
        reach = sizes.kthvalue(rank, dim=1).values.clamp(min=1).view(-1, *[1] * (guided.ndim - 1))
        inside = torch.where(reach > 1, middle + half * (centred.clamp(-reach, reach) / reach), guided.clamp(low, high))
        return inside, state
