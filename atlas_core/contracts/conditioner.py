"""The kind `conditioner`: turns labels, prompts or images into a `Condition`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from atlas_core.contracts.condition import Condition


@runtime_checkable
class Conditioner(Protocol):
    """Encodes what the user asks for.

    It may be an `nn.Module`: then it is trained, averaged and saved with the network.
    """

    dropout: float
    """Probability in [0, 1) that training replaces a sample's condition by the null one; guidance needs it above 0."""

    @property
    def widths(self) -> dict[str, int]:
        """Width of each part of the `Condition` it makes: `{"vector": d}`, `{"tokens": d}`, `{"image": c}`."""
        ...

    def encode(self, inputs: Sequence[Any]) -> Condition:
        """Encode one input a sample. Raises ValueError, naming the input, for one that it does not know."""
        ...

    def null(self, batch: int) -> Condition:
        """Return the condition that says nothing, for `batch` samples."""
        ...
