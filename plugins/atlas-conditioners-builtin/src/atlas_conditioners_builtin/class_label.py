"""Class labels, as one learned vector a class."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from atlas_core import derived
from atlas_core.contracts import Condition


class ClassLabel(nn.Module):
    """Tell the network which class to draw: one learned vector a class, and one that says nothing.

    The last row of the table is the null condition. Training replaces a label by it with probability `dropout`; without
    that, the row stays as it was drawn and classifier-free guidance has nothing to guide away from.
    """

    paper = "Ho & Salimans 2022, Classifier-Free Diffusion Guidance, alg. 1"

    @attrs.frozen
    class Config:
        classes: int = derived(
            "data.classes", help="Number of classes: labels are 0 to classes − 1.", validator=attrs.validators.gt(0)
        )
        width: int = attrs.field(
            default=128, validator=attrs.validators.gt(0), metadata={"help": "Length of the vector of a class."}
        )
        dropout: float = attrs.field(
            default=0.1,
            validator=[attrs.validators.ge(0), attrs.validators.lt(1)],
            metadata={"help": "Probability that training hides the label; 0 rules out classifier-free guidance."},
        )

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.dropout = config.dropout
        self.table = nn.Embedding(config.classes + 1, config.width)

    @property
    def widths(self) -> dict[str, int]:
        return {"vector": self.config.width}

    def encode(self, inputs: Sequence[Any]) -> Condition:
        """Encode b class indices, a sequence of integers or a tensor (b,): the vector is (b, width).

        A class is its index here; who knows the names of the classes, as `Pipeline.sample` does, looks them up before.
        Raises ValueError, naming the label and its place, for one that is no int in 0 … classes − 1.
        """
        return self._rows([self._index(label, place) for place, label in enumerate(inputs)])

    def null(self, batch: int) -> Condition:
        """Return the condition that says nothing, `batch` times."""
        return self._rows([self.config.classes] * batch)

    def _rows(self, index: list[int]) -> Condition:
        vector: Tensor = self.table(torch.tensor(index, dtype=torch.int64, device=self.table.weight.device))
        return Condition(vector=vector)

    def _index(self, label: Any, place: int) -> int:
        valid = f"labels are the ints 0 to {self.config.classes - 1}"
        try:
            index = (
                None
                if isinstance(label, bool) or getattr(label, "dtype", None) is torch.bool
                else operator.index(label)
            )
        except TypeError:
            index = None
        if index is None:
            raise ValueError(f"label {label!r} of sample {place} is not an int: {valid}")
        if not 0 <= index < self.config.classes:
            raise ValueError(f"label {label!r} of sample {place} does not exist: {valid}")
        return index
