"""`atlas-core train`: training alone."""

from __future__ import annotations

import json

import click

from atlas_core.cli import options
from atlas_core.cli.progress import result


@click.command("train")
@click.argument("target", required=False, metavar="PRESET|FILE")
@options.OVERRIDES
@options.NAME
@options.RUNS
@options.RESUME
@options.DRY_RUN
@options.STRICT
@options.QUIET
@options.JSON
def train(
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
    """Train the network of a preset or a config file, and leave checkpoints in the run's folder.

    \b
    atlas-core train digits train.steps=500
    atlas-core train --resume runs/digits
    atlas-core train --resume runs/digits train.steps=5000
    """
    from atlas_core.cli.run import new_run, stopped
    from atlas_core.config.plan import TransportPlan
    from atlas_core.errors import UsageError

    document, folder = options.opened(target, overrides, resume, root, name)
    plan = document.resolve()
    if isinstance(plan, TransportPlan):
        raise UsageError(f"{plan.origin} trains nothing: it couples two data sets", hint=f"atlas-core run {target}")
    if dry_run:
        result(plan.describe() if not as_json else json.dumps(plan.table, indent=2))
        return
    from atlas_core.pipeline import Pipeline
    from atlas_core.workflow import train as train_run

    folder = folder or new_run(root, name or plan.name)
    pipeline = Pipeline(plan, folder, strict=strict)
    with options.watched(pipeline, quiet) as bars:
        for note in plan.notes:
            bars.say(note)
        bars.say(f"run {folder.path}")
        trained = train_run(pipeline, resume=resume is not None)
    if trained.stopped:
        raise stopped(trained)
    if as_json:
        latest = str(folder.latest_checkpoint())
        result(
            json.dumps({"schema": 1, "run": str(folder.path), "checkpoint": latest, "steps": trained.steps}, indent=2)
        )
        return
    result(f"{trained.steps} steps, {trained.seconds:.0f} s. Next: atlas-core sample {folder.path}")
