"""What `atlas-core run` does in order, and the files it leaves beside the checkpoints."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from atlas_core.report.contents import ACTIVE, EVALUATION, PROBLEMS, TIMINGS
from atlas_core.runs.atomic import write_atomically

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
    try:
        return pipeline.train(resume=resume)
    finally:
        if pipeline.run is not None and pipeline.run.path.is_dir():
            _write_state(pipeline)


def finish(pipeline: Pipeline) -> Summary:
    """Draw the pictures, score the samples if the config names a metric, and write the report."""
    from atlas_core.report.page import write_report
    from atlas_core.report.pictures import final_pictures

    run = pipeline.run
    assert run is not None
    with pipeline.timed("sampling"):
        final_pictures(pipeline)
    evaluation = pipeline.evaluate() if pipeline.plan.metrics else None
    if evaluation is not None:
        write_atomically(run.path / EVALUATION, json.dumps(evaluation.to_json(), indent=1))
    problems = _write_state(pipeline)
    began = time.perf_counter()
    report = write_report(run)
    timings = {**pipeline.timings, "report": round(time.perf_counter() - began, 3)}
    return Summary(run.path, report, evaluation, timings, tuple(_text(problem) for problem in problems))


def _write_state(pipeline: Pipeline) -> list[dict[str, str]]:
    run = pipeline.run
    assert run is not None
    known = _read(run.path / TIMINGS)
    write_atomically(run.path / TIMINGS, json.dumps({**known, **pipeline.timings}, indent=1))
    write_atomically(run.path / ACTIVE, json.dumps(_active(pipeline), indent=1))
    problems = _problems(pipeline)
    write_atomically(run.path / PROBLEMS, json.dumps(problems, indent=1))
    return problems


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
