"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import Literal

import attrs


@attrs.frozen
class Schedule:
    """A linear rise over the warm-up, then half a cosine down to zero, or constant (Loshchilov & Hutter 2017, eq. 5).

    Step k (from 0) is taken with peak · (k + 1) / w for k < w, then with peak · ½ (1 + cos(π (k − w) / (steps − w))).
    """

    peak: float
    steps: int
    warmup_steps: int
    kind: Literal["cosine", "constant"]

    def __call__(self, step: int) -> float:
        """Return the learning rate of step `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.kind == "constant":
            return self.peak
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
