"""The kind `guidance`: combines a conditional prediction with a reference one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import attrs

if TYPE_CHECKING:
    from torch import Tensor


@attrs.frozen(eq=False)
class GuidanceContext:
    """Everything that guidance may look at; x, d_cond and d_ref are (b, *item)."""

    x: Tensor
    d_cond: Tensor
    d_ref: Tensor | None
    """The unconditional prediction, or the weak model's; None if `needs` is empty."""
    t: Tensor
    alpha: float | Tensor
    sigma: float | Tensor


@runtime_checkable
class Guidance(Protocol):
    """(D_cond, D_ref, t) → D."""

    needs: frozenset[str]
    """Which reference it takes: {} , {"unconditional"} or {"weak-model"}."""
    stateful: bool
    """True: `state` is row-indexed and lives for one sampling; adaptive samplers refuse it."""

    def __call__(self, context: GuidanceContext, state: Any) -> tuple[Tensor, Any]:
        """Return the guided x̂₀ (b, *item) and the state for the next call; the first call gets None."""
        ...
