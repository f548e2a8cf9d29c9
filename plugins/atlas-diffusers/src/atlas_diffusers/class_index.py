"""The conditioner `class-index`: for networks that embed the class themselves."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from attrs.validators import and_, ge, gt, lt
from torch import Tensor

from atlas_core import derived
from atlas_core.contracts import Condition


@attrs.frozen
class ClassIndex:
    """Hand the index of the class on as it is, (b, 1); the null condition is the index after the last class."""

    classes: int = derived("data.classes", help="Number of classes: labels are 0 to classes − 1.", validator=gt(0))
    dropout: float = attrs.field(
        default=0.1, validator=and_(ge(0), lt(1)), metadata={"help": "Probability that training hides the label."}
    )

    @property
    def widths(self) -> dict[str, int]:
        """One number."""
        return {"vector": 1}

    def encode(self, inputs: Sequence[Any]) -> Condition:
        """Encode b labels. Raises ValueError, naming the label, for one that is no int in 0 … classes − 1."""
        found = []
        for place, label in enumerate(inputs):
            try:
                index = -1 if isinstance(label, bool) else operator.index(label)
            except TypeError:
                index = -1
            if not 0 <= index < self.classes:
                raise ValueError(f"label {label!r} of sample {place}: labels are the ints 0 to {self.classes - 1}")
            found.append(index)
        return Condition(vector=torch.tensor(found, dtype=torch.float32)[:, None])

    def null(self, batch: int) -> Condition:
        """Return the condition that says nothing."""
        return Condition(vector=torch.full((batch, 1), float(self.classes)))


def labels_of(condition: Condition | None) -> Tensor:
    """Read the indices (b,) back. Raises ValueError where there are none."""
    if condition is None or condition.vector is None or condition.vector.shape[1] != 1:
        raise ValueError("this network is told the class by the conditioner class-index, and was told nothing")
    return condition.vector[:, 0].round().long()
