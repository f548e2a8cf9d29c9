"""Splits that live in memory, and how a labelled body of data is cut into `train` and `test`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atlas_core.contracts import Example

SplitType = TypeVar("SplitType")


@attrs.frozen(eq=False)
class TensorSplit:
    """A map-style split over one tensor: items (n, *item), float32, and labels (n,), int64, or None."""

    items: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Example:
        position = range(len(self))[index]  # one range check, also for −1; the key of random draws is never negative
        condition = None if self.labels is None else int(self.labels[position])
        return Example(self.items[position], condition, position)


def stratified(items: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]) -> dict[str, TensorSplit]:
    """Cut 80 / 20 as scikit-learn's train_test_split(test_size=0.2, random_state=0, stratify=labels) does."""
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(np.arange(len(items)), test_size=0.2, random_state=0, stratify=labels)
    x, y = torch.from_numpy(items.astype(np.float32)), torch.from_numpy(labels.astype(np.int64))
    return {"train": TensorSplit(x[train], y[train]), "test": TensorSplit(x[test], y[test])}


def std_of(split: TensorSplit) -> float:
    """Standard deviation of all values together, summed in float64."""
    return float(split.items.double().std(correction=0))


def pick(splits: Mapping[str, SplitType], name: str) -> SplitType:
    """Return splits[name]. Raises ValueError, with the valid names, for another name."""
    if name not in splits:
        raise ValueError(f"there is no split {name!r}; the splits are {', '.join(splits)}")
    return splits[name]
