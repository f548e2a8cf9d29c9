"""Where a solve at small ε starts: at a large one, which is easy, and down from there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from atlas_solvers_builtin.transport.problem import Problem

if TYPE_CHECKING:
    from atlas_solvers_builtin.transport.balanced.progress import Progress

COARSEST = 0.5
"""ε of the first stage is about that share of the mean cost: there a few sweeps are enough."""


@attrs.frozen(eq=False)
class Ladder:
    """ε, times the factor to the power of the stages that are left."""

    own: Tensor
    """The problems' own ε, (*batch,)."""
    factor: float
    last: Tensor
    """Number of the stage at which ε is the problem's own."""
    lower: bool
    """Whether the coarse stages are of lower precision, so that the last one is worth solving at the own ε, too."""
    has_coarse: Tensor
    """Whether there is anything before the exact phase: a larger ε, or a lower precision."""

    def epsilon(self, stage: Tensor) -> Tensor:
        """(*batch,): ε of each problem's stage."""
        return self.own * self.factor ** (self.last - stage).clamp(min=0)

    def advance(self, progress: Progress, onward: Tensor) -> None:
        """Go to the next stage, on the line through this and the one before: potentials are nearly affine in ε."""
        epsilon = self.epsilon(progress.stage)
        kept = (progress.f, progress.g, epsilon)
        if progress.last is not None:
            f, g, before = progress.last
            reach = (epsilon / self.factor - epsilon) / (epsilon - before)
            reach = torch.where(onward & (before > epsilon), reach, 0.0)[..., None]
            progress.f = progress.f + reach * (progress.f - f)
            progress.g = progress.g + reach * (progress.g - g)
            keep = onward[..., None]
            kept = (torch.where(keep, kept[0], f), torch.where(keep, kept[1], g), torch.where(onward, epsilon, before))
        progress.last = kept
        progress.stage = progress.stage + onward
        progress.visits = torch.where(onward, 0, progress.visits)
        if not self.lower:
            # The last stage in the same precision is the exact phase itself.
            progress.coarse = progress.coarse & ~(onward & (progress.stage == self.last))


def ladder_of(problem: Problem, factor: float, mean: Tensor, *, lower: bool) -> Ladder:
    """Return the stages of a problem with costs of that mean; one where `factor` is 1 or the operator has one ε."""
    own = problem.epsilon.expand(problem.mass.shape)
    last = torch.zeros_like(own, dtype=torch.int64)
    if not hasattr(problem.operator, "with_epsilon"):
        return Ladder(own, factor, last, False, last > 0)
    if factor > 1:
        ratio = COARSEST * mean / own
        last = (ratio.clamp(min=1.0).log() / math.log(factor)).round().long()
    return Ladder(own, factor, last, lower, (last > 0) | lower)
