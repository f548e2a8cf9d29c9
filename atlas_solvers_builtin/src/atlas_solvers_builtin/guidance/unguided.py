"""The guidance `none`."""

from __future__ import annotations

from typing import Any

import attrs
from torch import Tensor

from atlas_core.contracts import GuidanceContext


@attrs.frozen
class Unguided:
    """Sample from what the network has learned, as it is: D = D_cond."""

    needs = frozenset[str]()
    stateful = False

    def __call__(self, context: GuidanceContext, state: Any) -> tuple[Tensor, Any]:
        """Return the conditional prediction."""
        return context.d_cond, state
