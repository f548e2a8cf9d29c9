"""The kind `guidance`: combines a conditional prediction with a reference one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import attrs

if TYPE_CHECKING:
    from torch import Tensor


@attrs.frozen(eq=False)
class GuidanceContext:
    """Everything that guidance may look at; x, d_cond and d_ref are (b, *item)."""

    x: Tensor
    d_cond: Tensor
    d_ref: Tensor | None
    """The unconditional prediction, or the weak model's; None if `needs` is empty, or where `refers` says no.

    Rows that need no reference, in a batch of which others do, find `d_cond` in its place."""
    t: Tensor
    alpha: float | Tensor
    sigma: float | Tensor


@attrs.frozen
class WeakModel:
    """Where the network lies that guidance leads away from."""

    checkpoint: str = ""
    """A run folder or a checkpoint; `step-00000500`: that one of the run itself; empty: the earliest it has kept."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of its weights, or the weights as they were."""


@runtime_checkable
class Guidance(Protocol):
    """(D_cond, D_ref, t) → D.

    Two parts are optional: the method `refers(log_snr) -> bool`, for log-SNRs 0-d or (b,) float64 on the CPU, says
    where it wants its reference at all: elsewhere the forward pass is saved. What needs a "weak-model" names it:
    `weak_model: WeakModel`; the engine opens it, and binds the conditions of the samples to it.
    """

    needs: frozenset[str]
    """Which reference it takes: {} , {"unconditional"} or {"weak-model"}."""
    stateful: bool
    """True: `state` is row-indexed and lives for one sampling; adaptive samplers refuse it."""

    def __call__(self, context: GuidanceContext, state: Any) -> tuple[Tensor, Any]:
        """Return the guided x̂₀ (b, *item) and the state for the next call; the first call gets None."""
        ...
