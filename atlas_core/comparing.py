"""Compare samplers at equal numbers of calls: same network, same seeds, same conditions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from atlas_core.contracts import Batch
from atlas_core.engine.comparison import Comparison, Entry
from atlas_core.engine.scores import Row
from atlas_core.errors import Problem, RunError, UsageError
from atlas_core.runs.atomic import saying, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.engine.evaluation import Scorer
    from atlas_core.pipeline import Pipeline

FOLDER, CONTENT = "comparisons", "comparison.json"
SHOWN = 10
"""Samples of each entry that the report shows."""


def compare(
    pipeline: Pipeline,
    samplers: Sequence[str],
    budgets: Sequence[int],
    *,
    count: int = 500,
    seed: int | None = None,
    reference_nfe: int = 200,
    folder: Path | None = None,
) -> Comparison:
    """Draw `count` samples with every sampler at every NFE of `budgets`, and score them with the config's metrics.

    A sampler is named as in a config, with a grid if it is not to have the pipeline's: `heun`, `euler@karras`. Sample
    i starts from the same noise, with the same condition, in every one. `error` is the distance from a fine solution of
    the same ODE: `reference_nfe` calls of the pipeline's own sampler, or of the first that is not stochastic. Pictures
    of the first samples go into `folder`. Raises UsageError for a sampler or grid that is not there, all at once.
    """
    contenders = contenders_of(pipeline, samplers)
    if not pipeline.plan.metrics and all(each.plan.sampler.build().stochastic for each in contenders.values()):
        raise UsageError(
            "stochastic samplers have no error, and the config no metric: there is nothing to compare",
            hint="""Add `evaluate.metrics=[{use="sliced-wasserstein"}]`, or a sampler that draws no noise.""",
        )
    first = pipeline.plan.sampling.seed if seed is None else seed
    job = _Job(pipeline, range(first, first + count), folder)
    fine, reference = _reference(
        {pipeline.plan.sampler.id.rpartition(":")[2]: pipeline, **contenders}, job, reference_nfe
    )
    scorers, real = _scorers(pipeline, count)
    entries = [
        job.entry(name, variant, budget, fine, scorers) for name, variant in contenders.items() for budget in budgets
    ]
    return Comparison(
        entries=tuple(entries),
        columns=tuple(scorer.column(real) for scorer in scorers),
        count=count,
        seed=first,
        reference=reference,
        picture=job.shown(fine, "reference") if fine is not None else "",
        notes=(f"{count} samples each, seeds from {first} on, the same for all.",),
    )


def _scorers(pipeline: Pipeline, count: int) -> tuple[list[Scorer], list[Row]]:
    """Return the config's metrics, fitted, and what as many of the training split score."""
    import torch

    from atlas_core.engine.evaluation import clamped, scorers_of, whole

    plan = pipeline.plan
    if not plan.metrics:
        return [], []
    train, held_out = (clamped(whole(plan.dataset, split), pipeline.spec) for split in ("train", plan.evaluate.split))
    scorers = scorers_of([metric.build() for metric in plan.metrics], train, held_out, pipeline.spec)
    picked = torch.linspace(0, len(train.x) - 1, min(count, len(train.x))).round().long()
    condition = None if train.condition is None else train.condition[picked]
    some = Batch(train.x[picked], condition, index=torch.arange(len(picked)))
    cells = {scorer.name: scorer.score(some) for scorer in scorers}
    return scorers, [Row("training split", "floor", len(some.x), 0.0, cells)]


def contenders_of(pipeline: Pipeline, samplers: Sequence[str]) -> dict[str, Pipeline]:
    """Return a pipeline for each of `samplers`, all with one network. Raises UsageError for names that are unknown."""
    from atlas_core.errors import ConfigError

    if not samplers:
        raise UsageError("there is no sampler to compare", hint="atlas-core list-plugins --kind sampler")
    found, problems = {}, []
    for name in dict.fromkeys(samplers):
        sampler, _, grid = name.partition("@")
        if _chooses_its_steps(sampler):
            problems.append(Problem(f"{sampler} chooses its own steps: there is no NFE to compare it at"))
            continue
        overrides = [f"sampler.use={sampler}", *([f"sampling.grid.use={grid}"] if grid else [])]
        try:
            found[name] = pipeline.varied(overrides)
        except ConfigError as error:
            problems += list(error.problems)
    if problems:
        raise ConfigError("these samplers cannot be compared", problems=problems)
    return found


def _chooses_its_steps(name: str) -> bool:
    from atlas_core.building import build
    from atlas_core.errors import AtlasError

    try:
        return build("sampler", name).nfe(1) is None
    except AtlasError:
        return False  # what is wrong with it is told with its place in the config


def save(comparison: Comparison, folder: Path) -> Path:
    """Write comparison.json into its folder."""
    path = folder / CONTENT
    write_atomically(path, json.dumps(comparison.to_json(), indent=1))
    return path


def new_folder(run: Path) -> Path:
    """Make RUN/comparisons/1, 2, …: none replaces another."""
    number = 1
    while True:
        folder = run / FOLDER / str(number)
        with saying(folder, "nothing was compared", then="compare again"):
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                number += 1
                continue
        return folder


@attrs.define
class _Job:
    """What all entries have in common."""

    pipeline: Pipeline
    seeds: range
    folder: Path | None

    @property
    def labels(self) -> list[Any] | None:
        classes = len(self.pipeline.spec.classes)
        if self.pipeline.network.conditioner is None or not classes:
            return None
        return [i % classes for i in range(len(self.seeds))]

    def draw(self, variant: Pipeline, nfe: int) -> tuple[Tensor, int]:
        """Return the samples and the number of steps."""
        steps = len(variant.times(nfe=nfe)) - 1
        return variant.draw(self.seeds, self.labels, nfe=nfe), steps

    def entry(self, name: str, variant: Pipeline, budget: int, fine: Tensor | None, scorers: Sequence[Scorer]) -> Entry:
        """Draw and score one entry; a sampler that cannot keep to the budget leaves its reason."""
        began = time.perf_counter()
        try:
            x, steps = self.draw(variant, budget)
        except (UsageError, RunError) as error:
            return Entry(name, budget, problem=str(error.message))
        seconds = time.perf_counter() - began
        sampler = variant.plan.sampler.build()
        distance = None if fine is None or sampler.stochastic else float((x - fine).double().square().mean().sqrt())
        return Entry(
            name,
            budget,
            nfe=sampler.nfe(steps),
            steps=steps,
            seconds=round(seconds, 3),
            error=distance,
            cells={scorer.name: scorer.score(self.batch(x)) for scorer in scorers},
            picture=self.shown(x, f"{name.replace('@', '-').replace(':', '-')}-{budget}"),
        )

    def batch(self, x: Tensor) -> Any:
        """Return samples as metrics take them."""
        import torch

        labels = self.labels
        return Batch(x, None if labels is None else torch.tensor(labels), index=torch.arange(len(x)))

    def shown(self, x: Tensor, name: str) -> str:
        """Write a picture of the first samples, and return its name; nothing without a folder."""
        from atlas_core.report.images import grid_png, scatter_png

        if self.folder is None:
            return ""
        path = self.folder / f"{name}.png"
        if x.ndim == 4 and x.shape[1] in (1, 3, 4):
            grid_png(x[:SHOWN], path, SHOWN, self.pipeline.spec.value_range)
        elif x.ndim == 2:
            scatter_png(x, path)
        else:
            return ""
        return path.name


def _reference(contenders: dict[str, Pipeline], job: _Job, nfe: int) -> tuple[Tensor | None, str]:
    for name, variant in contenders.items():
        if not variant.plan.sampler.build().stochastic:
            try:
                return job.draw(variant, nfe)[0], f"{name} at {nfe} NFE"
            except UsageError:  # it chooses its own steps
                continue
    return None, ""


def comparisons_in(run: Path) -> Iterator[Path]:
    """The folders of a run's comparisons that are complete, oldest first."""
    found = [path.parent for path in (run / FOLDER).glob(f"*/{CONTENT}")]
    yield from sorted(found, key=lambda path: (len(path.name), path.name))
