"""`atlas-core run`: the whole pipeline."""

from __future__ import annotations

import json
from typing import Any

import click

from atlas_core.cli import options
from atlas_core.cli.progress import result


@click.command("run")
@options.starting
def run(**given: Any) -> int:
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

    start = options.Start(**given)
    plan, folder = options.opened(start)
    if start.dry_run:
        return 0
    folder = folder or options.new_run(start, plan)
    if isinstance(plan, TransportPlan):
        from atlas_core.cli.transport import carry_out

        return carry_out(plan, folder, quiet=start.quiet, as_json=start.as_json)
    _run_pipeline(plan, folder, start)
    return 0


def _run_pipeline(plan: Any, folder: Any, start: options.Start) -> None:
    from atlas_core.pipeline import Pipeline
    from atlas_core.workflow import finish, train

    pipeline = Pipeline(plan, folder, strict=start.strict)
    with options.watched(pipeline, start.quiet) as bars:
        for note in plan.notes:
            bars.say(note)
        bars.say(f"run {folder.path}")
        trained = train(pipeline, resume=start.resume is not None)
        if trained.stopped:
            raise stopped(trained)
        bars.say("sampling, scoring and reporting")
        summary = finish(pipeline)
    if start.as_json:
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
