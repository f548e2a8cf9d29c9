"""The two bodies of data of a transport, as points with masses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import attrs
import torch
from torch import Tensor

from atlas_core.config.resolved import Resolved
from atlas_core.errors import DataError


@attrs.frozen(eq=False)
class Side:
    """Source or target: the training split of a dataset, flattened."""

    label: str
    """What a reader knows it by: the name of its file or folder, else of its component."""
    dataset: Any
    points: Tensor
    """(n, d)."""
    weights: Tensor | None
    """(n,), in the type of the points; None: all alike."""
    shape: tuple[int, ...]
    """Of one item."""
    names: tuple[str, ...]
    """Of the coordinates, where they have names."""

    def __len__(self) -> int:
        return len(self.points)

    @property
    def masses(self) -> Tensor:
        """(n,), uniform where there are no weights."""
        uniform = torch.full((len(self),), 1 / len(self), dtype=self.points.dtype, device=self.points.device)
        return uniform if self.weights is None else self.weights

    def items(self, points: Tensor) -> Tensor:
        """Points (k, d) in the shape of items: (k, *item)."""
        return points.reshape(-1, *self.shape)

    def notes(self) -> Iterator[str]:
        """What the dataset has to say of itself, and files that it left out."""
        skipped = getattr(self.dataset, "skipped", None)
        for problem in skipped() if skipped is not None else ():
            yield f"{problem.file or problem.where}: {problem.message}"
        said = getattr(self.dataset, "notes", None)
        yield from said() if said is not None else ()
        if len(self) == 1:
            yield f"{self.label} is a single point: every point of the other side is coupled with it"


def read_side(resolved: Resolved, dataset: Any, device: torch.device) -> Side:
    """Read all of a dataset's training split. Raises DataError where there is nothing to read."""
    split = dataset.split("train")
    items = [split[position].x for position in range(len(split))]
    if not items:
        raise DataError(f"{resolved.id} has no example to couple")
    points = torch.stack(items).flatten(1)
    if not points.is_floating_point() or points.dtype.itemsize < 4:
        points = points.float()
    weights_of = getattr(dataset, "weights_of", None)
    weights = weights_of("train") if weights_of is not None else None
    return Side(
        label=_label(resolved),
        dataset=dataset,
        points=points.to(device),
        weights=None if weights is None else weights.to(points.dtype).to(device),
        shape=tuple(items[0].shape),
        names=tuple(getattr(dataset, "coordinates", ())),
    )


def alike(source: Side, target: Side) -> tuple[Side, Side]:
    """Return both in the wider of their types: a solver takes no two."""
    dtype = torch.promote_types(source.points.dtype, target.points.dtype)

    def cast(side: Side) -> Side:
        weights = None if side.weights is None else side.weights.to(dtype)
        return attrs.evolve(side, points=side.points.to(dtype), weights=weights)

    return cast(source), cast(target)


def _label(resolved: Resolved) -> str:
    paths = (
        value for value in resolved.settings.values() if isinstance(value, str) and ("/" in value or "\\" in value)
    )
    # Windows' rules know both separators.
    return next((PureWindowsPath(path).name for path in paths if Path(path).exists()), resolved.entry.name)
