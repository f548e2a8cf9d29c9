"""The loop of all multistep samplers: its numbers are known before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Denoiser, Step


@attrs.frozen
class StepWeights:
    """One step, x ← a x + Σ b_j p_j, where p_0 is the prediction x̂₀ at its start and the others were made before it."""

    predict: tuple[float, ...]
    """a, b_0, b_1, …, latest first."""
    correct: tuple[float, ...] = ()
    """The same for the step before, from the state that it started from: applied when x̂₀ at its end is known, which is
    then p_0. Empty: the state stays as it was predicted."""
    remember: tuple[float, float] | None = None
    """u, v of what later steps know this one by, u x + v x̂₀; None: x̂₀ itself."""


def integrate(denoiser: Denoiser, x: Tensor, times: Tensor, plan: Sequence[StepWeights]) -> Iterator[Step]:
    """Walk x (b, *item) along times (n + 1,) by n steps of a plan: one call each, no other arithmetic, no host sync."""
    depth = max(max(len(step.predict), len(step.correct)) for step in plan) - 2
    past: list[Tensor] = []
    start = x
    for index, (s, t, step) in enumerate(zip(times[:-1], times[1:].tolist(), plan, strict=True)):
        x0 = denoiser(x, s)
        known = [x0, *past]
        start = _combine(step.correct, start, known) if step.correct else x
        x = _combine(step.predict, start, known)
        if depth:
            latest = x0 if step.remember is None else _combine(step.remember, start, known)
            past = [latest, *past[: depth - 1]]
        yield Step(index, t, x, x0)


def _combine(weights: Sequence[float], state: Tensor, known: Sequence[Tensor]) -> Tensor:
    """weights[0] · state + Σ weights[1 + j] · known[j], for as many as there are weights."""
    total = state * weights[0]
    for weight, tensor in zip(weights[1:], known, strict=False):
        total = torch.add(total, tensor, alpha=weight)
    return total
