"""`atlas-core run`: the whole pipeline."""

from __future__ import annotations

import json
from typing import Any

import click

from atlas_core.cli import options
from atlas_core.cli.progress import result


@click.command("run")
@click.argument("target", required=False, metavar="PRESET|FILE")
@options.OVERRIDES
@options.NAME
@options.RUNS
@options.RESUME
@options.DRY_RUN
@options.STRICT
@options.QUIET
@options.JSON
def run(
    target: str | None,
    overrides: tuple[str, ...],
    name: str | None,
    root: str,
    resume: str | None,
    dry_run: bool,
    strict: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train, sample, score and report: all that a preset or a config file says.

    A name is a preset; a path that ends in .toml or .json, or has a slash, is a file. KEY=VALUE changes a setting:

    \b
    atlas-core run digits
    atlas-core run digits train.steps=500 sampler.use=heun sampling.nfe=20
    atlas-core run digits --dry-run
    atlas-core run ./mine.toml --name first-try
    atlas-core run --resume runs/digits
    """
    from atlas_core.config.plan import TransportPlan

    document, folder = options.opened(target, overrides, resume, root, name)
    plan = document.resolve()
    if dry_run:
        result(plan.describe() if not as_json else json.dumps(plan.table, indent=2))
        return
    folder = folder or new_run(root, name or plan.name)
    if isinstance(plan, TransportPlan):
        from atlas_core.transport import run_transport

        summary = run_transport(plan, folder)
        result(json.dumps(summary, indent=2) if as_json else _transport_text(summary, folder))
        return
    _run_pipeline(plan, folder, resume=resume is not None, strict=strict, quiet=quiet, as_json=as_json)


def new_run(root: str, name: str) -> Any:
    """Make the folder of a new run."""
    from atlas_core.runs.folder import RunFolder

    return RunFolder.create(root, name)


def _run_pipeline(plan: Any, folder: Any, *, resume: bool, strict: bool, quiet: bool, as_json: bool) -> None:
    from atlas_core.pipeline import Pipeline
    from atlas_core.workflow import finish, train

    pipeline = Pipeline(plan, folder, strict=strict)
    with options.watched(pipeline, quiet) as bars:
        for note in plan.notes:
            bars.say(note)
        bars.say(f"run {folder.path}")
        trained = train(pipeline, resume=resume)
        if trained.stopped:
            raise stopped(trained)
        bars.say("sampling, scoring and reporting")
        summary = finish(pipeline)
    if as_json:
        result(json.dumps(summary.as_json(), indent=2))
        return
    if summary.evaluation is not None:
        result(summary.evaluation.table())
    for problem in summary.problems:
        bars.say(f"note: {problem}")
    result(f"\n{summary.seconds:.0f} s in all. Open {summary.report}")


def stopped(trained: Any) -> BaseException:
    """What a command ends with after a signal: the run is safe, and this is how it goes on."""
    from atlas_core.errors import RunError

    error = RunError(
        f"stopped by {trained.stopped} after step {trained.steps}", hint=f"go on: {trained.resume_command}"
    )
    error.exit_code = 130 if trained.stopped == "SIGINT" else 143
    return error


def _transport_text(summary: dict[str, Any], folder: Any) -> str:
    lines = [f"{name}: {value}" for name, value in summary["solution"].items()]
    lines += [f"{name}: {value}" for name, value in summary["metrics"].items()]
    return "\n".join([*lines, f"written to {folder.path}"])
