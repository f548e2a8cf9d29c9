"""Score a generator beside real data and simple baselines, all treated alike."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import attrs
import torch

from atlas_core.contracts import Baseline, Batch, Dataset, DataSpec, Metric
from atlas_core.engine.scores import Cell, Column, Evaluation, Row

if TYPE_CHECKING:
    from torch import Tensor

Draw = Callable[[list[int] | None, Sequence[int]], "Tensor"]
"""(one label a sample or None, one seed a sample) -> samples (n, *item)."""


def evaluate(
    draw: Draw,
    dataset: Dataset,
    metrics: Sequence[Metric] | Mapping[str, Metric],
    baselines: Sequence[Baseline] | Mapping[str, Baseline] = (),
    *,
    count: int = 1000,
    split: str = "test",
    seed: int = 0,
    labelled: bool = True,
) -> Evaluation:
    """Score `count` samples of `draw` against the held-out `split`, beside the training split and the baselines.

    Labels are balanced: sample i has class i mod the number of classes, and seed `seed + i`. Every contender, real data
    included, is clamped to the data's value range. Metrics and baselines keep the name of their class unless a mapping
    names them; they are fitted on the training split here. A metric that cannot be computed leaves its reason in the
    cell, and so does one that crashes; a baseline that crashes leaves it in its row. `labelled=False` is for a model
    that cannot be told a label: it is asked for none, and no metric judges its samples by one.
    Raises ValueError for an unknown split, an empty one, or samples of another shape than the data.
    """
    started = time.perf_counter()
    spec = dataset.spec
    train, held_out = (clamped(whole(dataset, name), spec) for name in ("train", split))
    scorers = scorers_of(metrics, train, held_out, spec)
    labels = None if not spec.classes else [i % len(spec.classes) for i in range(count)]
    rows = []
    seeds = range(seed, seed + count)
    for name, kind, make in _contenders(draw, train, spec, _named(baselines), labels, seeds, labelled):
        before = time.perf_counter()
        contender, error = _made(make, kind, spec)
        cells = {each.name: each.score(contender) if contender else Cell(error=error) for each in scorers}
        n = len(contender.x) if contender else 0
        rows.append(Row(name, kind, n, round(time.perf_counter() - before, 3), cells, error))
    return Evaluation(
        rows=tuple(rows),
        columns=tuple(scorer.column(rows) for scorer in scorers),
        count=count,
        split=split,
        held_out=len(held_out.x),
        train=len(train.x),
        seed=seed,
        seconds=round(time.perf_counter() - started, 3),
        notes=tuple(_notes(spec, count, split, len(train.x), len(held_out.x), labelled)),
    )


def scorers_of(
    metrics: Sequence[Metric] | Mapping[str, Metric], train: Batch, held_out: Batch, spec: DataSpec
) -> list[Scorer]:
    """Fit every metric on the training split and show it the held-out one."""
    return [Scorer(name, metric, train, held_out, spec) for name, metric in _named(metrics).items()]


def whole(dataset: Dataset, split: str) -> Batch:
    """Read all of a split into one batch; class indices become a tensor, other conditions stay a list."""
    examples = dataset.split(split)
    items = [examples[i] for i in range(len(examples))]
    if not items:
        raise ValueError(f"the split {split!r} is empty: nothing to compare with")
    conditions: Any = [item.condition for item in items]
    if all(condition is None for condition in conditions):
        conditions = None
    elif all(isinstance(condition, int) for condition in conditions):
        conditions = torch.tensor(conditions)
    x = torch.stack([item.x for item in items]).float()
    return Batch(x, conditions, index=torch.tensor([item.index for item in items]))


def clamped(batch: Batch, spec: DataSpec) -> Batch:
    """Limit a batch to the value range of the data, if it has one. Raises ValueError for items of another shape."""
    x = batch.x.detach().cpu().float()
    if tuple(x.shape[1:]) != tuple(spec.shape):
        raise ValueError(
            f"samples of shape {tuple(x.shape[1:])} cannot be compared with data of shape {tuple(spec.shape)}"
        )
    return attrs.evolve(batch, x=x if spec.value_range is None else x.clamp(*spec.value_range))


def _contenders(
    draw: Draw,
    train: Batch,
    spec: DataSpec,
    baselines: Mapping[str, Baseline],
    labels: list[int] | None,
    seeds: range,
    labelled: bool,
) -> Iterator[tuple[str, Literal["ours", "floor", "baseline"], Callable[[], Batch]]]:
    from atlas_core.engine.noise import CounterNoise

    index = torch.arange(len(seeds))
    wanted = None if labels is None else torch.tensor(labels)
    told, known = (labels, wanted) if labelled else (None, None)
    yield "ours", "ours", lambda: Batch(_drawn("the model", draw(told, seeds), index), known, index=index)
    yield "training split", "floor", lambda: train
    noise = CounterNoise.from_seeds(seeds)

    def drawn_by(name: str, baseline: Baseline) -> Callable[[], Batch]:
        def make() -> Batch:
            baseline.fit(train, spec)
            return Batch(_drawn(name, baseline.sample(wanted, noise), index), wanted, index=index)

        return make

    for name, baseline in baselines.items():
        yield name, "baseline", drawn_by(name, baseline)


def _made(
    make: Callable[[], Batch], kind: Literal["ours", "floor", "baseline"], spec: DataSpec
) -> tuple[Batch | None, str]:
    """Return a contender, or what a baseline raised; a model that cannot draw ends the evaluation."""
    try:
        return clamped(make(), spec), ""
    except Exception as error:  # a baseline is a plugin's code: its row is lost, the table is not
        if kind != "baseline":
            raise
        return None, _said(error)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _drawn(name: str, x: Tensor, index: Tensor) -> Tensor:
    if len(x) != len(index):
        raise ValueError(f"{name} returned {len(x)} samples; {len(index)} were asked for")
    return x


@attrs.define
class Scorer:
    """A fitted metric that has seen the held-out split, ready to be shown one contender after another."""

    name: str
    metric: Metric
    train: Batch = attrs.field(repr=False)
    held_out: Batch = attrs.field(repr=False)
    spec: DataSpec
    fresh: dict[str, Tensor] = attrs.field(init=False, repr=False, factory=dict)
    problem: str = attrs.field(init=False, default="")
    failed: bool = attrs.field(init=False, default=False)
    floor: float | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        try:
            fit = getattr(self.metric, "fit", None)
            if fit is not None:
                fit(self.train, self.spec)
            self.metric.update(real=self.held_out)
            self.fresh = {key: value.clone() for key, value in self.metric.state().items()}
        except ValueError as error:  # what a metric says of data that it is not made for
            self.problem = str(error)
        except Exception as error:  # noqa: BLE001 - a plugin's code: its column is lost, the table is not
            self.problem, self.failed = _said(error), True

    def score(self, contender: Batch) -> Cell:
        """Return the metric of one contender, from a state that saw no other."""
        broken = int((~contender.x.flatten(1).isfinite().all(1)).sum())
        problem = self.problem or (f"{broken} of {len(contender.x)} samples are not finite" if broken else "")
        if problem:
            return Cell(n=len(contender.x), error=problem, failed=self.failed)
        try:
            self.metric.load_state({key: value.clone() for key, value in self.fresh.items()})
            self.metric.update(generated=contender)
            result = self.metric.compute()
            cell = Cell.of(result)
        except ValueError as error:  # the contract's word for too few samples
            return Cell(n=len(contender.x), error=str(error))
        except Exception as error:  # noqa: BLE001 - a plugin's code: its cell is lost, the table is not
            return Cell(n=len(contender.x), error=_said(error), failed=True)
        if self.floor is None:
            self.floor = result.floor
        return cell

    def column(self, rows: Sequence[Row]) -> Column:
        """Describe the metric; its floor is its own reference, else what the training split scores."""
        real = next((row.cells[self.name].value for row in rows if row.kind == "floor"), None)
        summary = (type(self.metric).__doc__ or "").strip().split("\n")[0]
        return Column(
            self.name, self.metric.better, self.floor if self.floor is not None else real, _config(self.metric), summary
        )


def _named(components: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """Name components after their class; those of one class by the settings in which they differ."""
    if isinstance(components, Mapping):
        return dict(components)
    kinds = [re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(each).__name__).lower() for each in components]
    named: dict[str, Any] = {}
    for kind, each in zip(kinds, components, strict=True):
        alike = [_config(other) for other, name in zip(components, kinds, strict=True) if name == kind]
        differing = [
            str(value) for key, value in _config(each).items() if any(other.get(key) != value for other in alike)
        ]
        name = f"{kind} ({', '.join(differing)})" if differing else kind
        named[name if name not in named else f"{name} #{len(named) + 1}"] = each
    return named


def _config(each: Any) -> dict[str, Any]:
    """The settings of an attrs component as JSON can hold them; a nested component by its representation."""
    if not attrs.has(type(each)):
        return {}
    values = {field.name: getattr(each, field.name) for field in attrs.fields(type(each)) if field.init}
    plain = (bool, int, float, str, type(None))
    return {name: value if isinstance(value, plain) else repr(value) for name, value in values.items()}


def _notes(spec: DataSpec, count: int, split: str, train: int, held_out: int, labelled: bool) -> Iterator[str]:
    yield f"Real data: {held_out} images or points of the split {split!r}; the training split has {train}."
    if spec.classes:
        each, rest = divmod(count, len(spec.classes))
        many = f"{each} or {each + 1}" if rest else f"{each}"
        yield f"Classes are balanced: {many} samples for each of {len(spec.classes)}."
        if not labelled:
            yield "The model takes no labels: its own samples are asked for none, and none is judged by its label."
    if spec.value_range is not None:
        low, high = spec.value_range
        yield f"All contenders, real data included, are clamped to [{low:g}, {high:g}] before they are scored."
