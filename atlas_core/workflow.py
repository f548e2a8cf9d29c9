"""What `atlas-core run` does in order, and the files it leaves beside the checkpoints."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from atlas_core.config.writing import to_toml
from atlas_core.errors import UsageError
from atlas_core.report.contents import ACTIVE, EVALUATION, EVALUATIONS, PROBLEMS, TIMINGS
from atlas_core.runs.atomic import saying, write_atomically
from atlas_core.runs.folder import RunFolder

if TYPE_CHECKING:
    from atlas_core.engine.scores import Evaluation
    from atlas_core.engine.training.trainer import TrainResult
    from atlas_core.pipeline import Pipeline


@attrs.frozen
class Summary:
    """What a run has come to."""

    run: Path
    report: Path
    evaluation: Evaluation | None
    timings: dict[str, float]
    problems: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """All phases together."""
        return sum(self.timings.values())

    def as_json(self) -> dict[str, Any]:
        """Return what `atlas-core run --json` prints."""
        return {
            "schema": 1,
            "run": str(self.run),
            "report": str(self.report),
            "seconds": round(self.seconds, 3),
            "timings": self.timings,
            "evaluation": self.evaluation.to_json() if self.evaluation else None,
            "problems": list(self.problems),
        }


def train(pipeline: Pipeline, *, resume: bool = False) -> TrainResult:
    """Train, and keep beside the checkpoints what was asked for, what was active and what went wrong."""
    if resume and pipeline.run is not None:
        # A run takes as long as all of its sessions together.
        before = _read(pipeline.run.path / TIMINGS).get("training", 0.0)
        pipeline.timings["training"] = float(before)
    try:
        return pipeline.train(resume=resume)
    finally:
        if pipeline.run is not None and pipeline.run.path.is_dir():
            _write_state(pipeline, pipeline.run)


def finish(pipeline: Pipeline, overrides: Sequence[str] = ()) -> Summary:
    """Draw the pictures, score the samples if the config names a metric, and write the report.

    A pipeline that was opened with `overrides` leaves the run's own files as they are: everything goes into a new
    folder `evaluations/…` of the run. A report is written even if the evaluation fails; then its error is raised.
    """
    from atlas_core.report.page import write_report
    from atlas_core.report.pictures import final_pictures

    assert pipeline.run is not None
    if pipeline.plan.metrics:
        _refuse_other_data(pipeline)
    run = _new_evaluation(pipeline, overrides) if overrides else pipeline.run
    with pipeline.timed("sampling"):
        final_pictures(pipeline, run.path, overrides)
    evaluation = None
    try:
        if pipeline.plan.metrics:
            evaluation = score(pipeline)
            write_atomically(run.path / EVALUATION, json.dumps(evaluation.to_json(), indent=1))
    except Exception as error:
        _write_state(pipeline, run, [f"the evaluation failed: {type(error).__name__}: {error}"])
        write_report(run)
        raise
    problems = _write_state(pipeline, run, evaluation.failures if evaluation else ())
    began = time.perf_counter()
    report = write_report(run)
    timings = {**pipeline.timings, "report": round(time.perf_counter() - began, 3)}
    return Summary(run.path, report, evaluation, timings, tuple(_text(problem) for problem in problems))


def score(pipeline: Pipeline) -> Evaluation:
    """Score a trained pipeline; the table names id and version of what scored.

    Raises UsageError for data of another shape than the network draws, and without a metric.
    """
    from atlas_core.config.lock import lock

    plan = pipeline.plan
    if plan.metrics:
        _refuse_other_data(pipeline)
    evaluation = pipeline.evaluate()
    metrics, baselines = (
        [f"{each.id} {each.entry.version}" for each in some] for some in (plan.metrics, plan.baselines)
    )
    used = lock(each for part in (plan.data, *plan.metrics, *plan.baselines) for each in part.components())
    return attrs.evolve(evaluation.named(metrics, baselines), parts=tuple(used["components"]))


def _refuse_other_data(pipeline: Pipeline) -> None:
    drawn, real = tuple(pipeline.spec.shape), tuple(pipeline.plan.dataset.spec.shape)
    if drawn != real:
        raise UsageError(
            f"the network draws samples of shape {drawn}; {pipeline.plan.data.id} holds data of shape {real}",
            hint="Evaluate without the override of `data`, or with data of the shape that it was trained on.",
        )


def _new_evaluation(pipeline: Pipeline, overrides: Sequence[str]) -> RunFolder:
    """Make a folder for an evaluation with overrides, named after them, with the config that they give."""
    assert pipeline.run is not None
    name = re.sub(r"[^A-Za-z0-9.=_-]+", "-", ",".join(overrides)).strip("-.")[:60] or "evaluation"
    root, number = pipeline.run.path / EVALUATIONS, 1
    while True:
        folder = root / (name if number == 1 else f"{name}-{number}")
        with saying(folder, "nothing was evaluated", then="evaluate again"):
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                number += 1
                continue
        run = RunFolder(folder)
        write_atomically(run.config_toml, to_toml(pipeline.plan.table))
        return run


def _write_state(pipeline: Pipeline, run: RunFolder, failures: Sequence[str] = ()) -> list[dict[str, str]]:
    known = _read(run.path / TIMINGS)
    write_atomically(run.path / TIMINGS, json.dumps({**known, **pipeline.timings}, indent=1))
    write_atomically(run.path / ACTIVE, json.dumps(_active(pipeline), indent=1))
    problems = _problems(pipeline)
    problems += [{"message": each, "where": "", "hint": _check(each)} for each in failures]
    write_atomically(run.path / PROBLEMS, json.dumps(problems, indent=1))
    return problems


def _check(failure: str) -> str:
    """The command that looks at the provider which a line `metric provider:name 1.0 failed: …` names."""
    named = re.match(r"(?:metric|baseline) (\S+?):\S+ \S+ failed: ", failure)
    return "atlas-core list-plugins --check" if named else ""


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _problems(pipeline: Pipeline) -> list[dict[str, str]]:
    """Files that the dataset left out, plugins and hooks that failed."""
    found = []
    skipped = getattr(pipeline.plan.dataset, "skipped", None)
    for problem in skipped() if skipped is not None else ():
        found.append({"message": problem.message, "where": problem.file or problem.where, "hint": problem.hint})
    for failure in (*pipeline.plan.registry.failures, *pipeline.events.failures):
        found.append({"message": str(failure), "where": "", "hint": "atlas-core list-plugins --check"})
    return found


def _text(problem: dict[str, str]) -> str:
    return ": ".join(filter(None, (problem["where"], problem["message"])))


def _active(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """What was asked for beside what took effect."""
    import torch

    train = pipeline.plan.train
    times = pipeline.times() if pipeline.is_trained else ()
    sampling = pipeline.plan.sampling
    asked = f"{sampling.steps} steps" if sampling.steps else f"{sampling.nfe or 20} NFE"
    steps = len(times) - 1
    active: dict[str, dict[str, Any]] = {
        "device": {"requested": train.device, "active": str(pipeline.device), "reason": ""},
        "precision": {"requested": train.precision, "active": train.precision, "reason": ""},
        "threads": {
            "requested": train.threads or "all cores",
            "active": train.threads or torch.get_num_threads(),
            "reason": "" if train.threads else "OMP_NUM_THREADS limits them",
        },
    }
    if steps > 0:
        nfe = pipeline.plan.sampler.build().nfe(steps)
        active["sampling"] = {"requested": asked, "active": f"{steps} steps, {nfe} NFE", "reason": ""}
    return active
