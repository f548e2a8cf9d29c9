"""Score mapped points against the target, beside what the target itself reaches and what the unmoved source does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Batch, DataSpec, Example
from atlas_core.engine.evaluation import evaluate
from atlas_core.engine.scores import Evaluation

if TYPE_CHECKING:
    from atlas_core.config.plan import TransportPlan
    from atlas_core.transport.side import Side


def score(plan: TransportPlan, source: Side, target: Side, mapped: Tensor) -> Evaluation:
    """Return the table of the config's metrics: mapped points against held-out points of the target.

    Without a held-out split the target is halved: one half is what the points are compared with, the other stands for
    real data. Metrics see every point alike, so weighted points are drawn as often as they weigh.
    """
    from atlas_core.config.lock import lock

    split = plan.evaluate.split or ("test" if "test" in target.dataset.splits else None)
    reference = _Reference.of(target, split)
    points = {"mapped": _drawn(mapped, source.weights), "source": _drawn(source.points, source.weights)}
    items = {name: source.items(each).detach().cpu().float() for name, each in points.items()}
    count = min(plan.evaluate.count, len(items["mapped"]))
    rows = _spread(len(items["mapped"]), count)
    table = evaluate(
        lambda _labels, _seeds: items["mapped"][rows],
        reference,
        [metric.build() for metric in plan.metrics],
        {"unmoved source": _Unmoved(items["source"][rows])},
        count=count,
        labelled=False,
    )
    ids = [f"{metric.id} {metric.entry.version}" for metric in plan.metrics]
    parts = lock(each for part in (plan.target, *plan.metrics) for each in part.components())["components"]
    table = attrs.evolve(table.named(ids, [""]), parts=tuple(parts), split=split or "train", notes=_notes(table, split))
    first, *rest = table.rows
    return attrs.evolve(table, rows=(attrs.evolve(first, name="mapped"), *rest))


def _notes(table: Evaluation, split: str | None) -> tuple[str, ...]:
    if split == "train":
        return ("The mapped points are compared with the very points that they were coupled with.",)
    if split is not None:
        return (f"The mapped points are compared with {table.held_out} points of the target's split {split!r}.",)
    return (
        f"The target has no held-out split: the mapped points are compared with one half of it ({table.held_out} "
        "points), and the other half stands for real data. The coupling has seen both.",
    )


@attrs.frozen(eq=False)
class _Items:
    """A split in memory."""

    items: Tensor

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Example:
        return Example(self.items[index], None, index)


@attrs.frozen(eq=False)
class _Reference:
    """The target as an evaluation wants it: what is held out, and real points beside it."""

    spec: DataSpec
    parts: dict[str, _Items]
    splits = ("train", "test")

    @classmethod
    def of(cls, target: Side, split: str | None) -> _Reference:
        spec = attrs.evolve(target.dataset.spec, classes=())  # nobody told the mapped points a class
        train = target.items(_drawn(target.points, target.weights)).detach().cpu()
        if split is None and len(train) > 1:
            order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
            train, held_out = train[order[::2]], train[order[1::2]]
        elif split in (None, "train"):
            held_out = train
        else:
            examples = target.dataset.split(split)
            points = torch.stack([examples[position].x for position in range(len(examples))])
            weights_of = getattr(target.dataset, "weights_of", None)
            held_out = _drawn(points, weights_of(split) if weights_of is not None else None)
        return cls(spec, {"train": _Items(train), "test": _Items(held_out)})

    def split(self, name: str) -> _Items:
        return self.parts[name]


@attrs.define(eq=False)
class _Unmoved:
    """The baseline of every transport: to leave the points where they are."""

    points: Tensor

    def fit(self, train: Batch, spec: DataSpec) -> None:
        """There is nothing to learn."""

    def sample(self, labels: Tensor | None, noise: Any) -> Tensor:
        return self.points


def _drawn(points: Tensor, weights: Tensor | None) -> Tensor:
    """As many points, each as often as it weighs, to within one (systematic resampling)."""
    if weights is None:
        return points
    levels = weights.double().cumsum(0) / weights.double().sum()
    places = (torch.arange(len(points), dtype=torch.float64, device=points.device) + 0.5) / len(points)
    return points[torch.searchsorted(levels, places).clamp(max=len(points) - 1)]


def _spread(count: int, most: int) -> Sequence[int]:
    return range(count) if most >= count else torch.linspace(0, count - 1, most).round().long().tolist()
