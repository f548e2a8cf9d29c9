"""What a metric has seen: rows of generated and of real data, each at most once, in a form that ranks can merge."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from atlas_core.contracts import Batch, DataSpec

UNKNOWN = -1
"""Index or label of a row that has none; such rows are never duplicates of each other."""


def labels_of(condition: Any, rows: int) -> Tensor:
    """Return class indices (rows,), int64; `UNKNOWN` where the condition is no class index."""
    if condition is None:
        return torch.full((rows,), UNKNOWN)
    if isinstance(condition, Tensor):
        labels = condition.detach().cpu()
    elif all(isinstance(label, int | np.integer) for label in condition):
        labels = torch.tensor([int(label) for label in condition])
    else:
        return torch.full((rows,), UNKNOWN)
    if labels.shape != (rows,) or labels.is_floating_point():
        raise ValueError(
            f"labels of {rows} rows have shape {tuple(labels.shape)}, {labels.dtype}; wanted ({rows},), int64"
        )
    return labels.long()


def classes_in(labels: Tensor) -> list[int]:
    """Return the different labels, in order."""
    return sorted(set(labels.tolist()))


@attrs.define
class Rows:
    """Rows of one side, in any order; `read` returns them by index, without duplicates."""

    parts: list[tuple[Tensor, Tensor, Tensor]] = attrs.field(factory=list)

    def add(self, x: Tensor, labels: Tensor, index: Tensor | None) -> None:
        """Append x (b, d), labels (b,) and global indices (b,)."""
        rows = x.shape[0]
        index = torch.full((rows,), UNKNOWN) if index is None else index.detach().cpu().long()
        if index.shape != (rows,):
            raise ValueError(f"{rows} rows came with an index of shape {tuple(index.shape)}; wanted ({rows},)")
        self.parts.append((x.detach().cpu(), labels, index))

    def read(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return x (n, d), labels (n,), index (n,), sorted by index, so that the order of arrival changes nothing."""
        if not self.parts:
            return torch.zeros(0, 0), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
        x, labels, index = (torch.cat(column) for column in zip(*self.parts, strict=True))
        anonymous = torch.nonzero(index == UNKNOWN).flatten()
        named = torch.nonzero(index != UNKNOWN).flatten()
        first = torch.from_numpy(np.unique(index[named].numpy(), return_index=True)[1])
        keep = torch.cat([named[first], anonymous])
        return x[keep], labels[keep], index[keep]


@attrs.define
class TwoSets:
    """The state that the metrics of this distribution share: a generated and a real set of feature rows.

    A metric that compares in another space than pixels overrides `features_of`, called once a row.
    """

    generated: Rows = attrs.field(factory=Rows, init=False, repr=False)
    real: Rows = attrs.field(factory=Rows, init=False, repr=False)

    def features_of(self, x: Tensor) -> Tensor:
        """Map items (b, *item) to the rows (b, d) that are kept."""
        return x.flatten(1).float()

    def update(self, generated: Batch | None = None, real: Batch | None = None, *, index: Tensor | None = None) -> None:
        """Add samples. `index` (b,) names the rows, else the batch's own index; rows without one are always kept."""
        for side, batch in ((self.generated, generated), (self.real, real)):
            if batch is not None:
                labels = labels_of(batch.condition, len(batch.x))
                side.add(self.features_of(batch.x.detach().cpu()), labels, batch.index if index is None else index)

    def state(self) -> dict[str, Tensor]:
        state = {}
        for name, side in (("generated", self.generated), ("real", self.real)):
            state[f"{name}.x"], state[f"{name}.label"], state[f"{name}.index"] = side.read()
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.generated, self.real = Rows(), Rows()
        self.merge(state)

    def merge(self, other: dict[str, Tensor]) -> None:
        """Add the rows of another rank; those that this one has already are padding."""
        for name, side in (("generated", self.generated), ("real", self.real)):
            if len(other[f"{name}.x"]):
                side.add(other[f"{name}.x"], other[f"{name}.label"], other[f"{name}.index"])

    def both(self, at_least: int) -> tuple[Tensor, Tensor]:
        """Return generated (n, d) and real (m, d) rows. Raises ValueError if either has fewer than `at_least`."""
        generated, real = self.generated.read()[0], self.real.read()[0]
        for name, rows in (("generated", generated), ("real", real)):
            if len(rows) < at_least:
                raise ValueError(
                    f"{type(self).__name__} needs at least {at_least} {name} samples and saw {len(rows)}: "
                    "raise evaluate.count, or choose a larger split"
                )
        return generated, real


def equal_sizes(x: Tensor, y: Tensor, size: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """Return as many rows of x (n, d) as of y (m, d), at most `size`, drawn without replacement."""
    k = min(len(x), len(y), len(x) if size is None else size)
    rng = np.random.default_rng(seed)
    return _drawn(x, k, rng), _drawn(y, k, rng)


def at_most(x: Tensor, size: int, seed: int) -> Tensor:
    """Return `size` rows of x (n, d), drawn without replacement; x itself if it has no more."""
    return _drawn(x, size, np.random.default_rng(seed))


def _drawn(rows: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    return rows[torch.from_numpy(np.sort(rng.permutation(len(rows))[:size]))] if len(rows) > size else rows


def labelled(train: Batch, spec: DataSpec, who: str) -> Tensor:
    """Return the labels of the training split. Raises ValueError, saying what to use instead, where there are none."""
    labels = labels_of(train.condition, len(train.x))
    if not spec.classes or bool((labels == UNKNOWN).any()):
        raise ValueError(f"{who} needs data with classes, and this dataset has none: leave it out of evaluate.metrics")
    if len(classes_in(labels)) < 2:
        raise ValueError(f"{who} needs at least 2 classes in the training split, which has only {classes_in(labels)}")
    return labels
