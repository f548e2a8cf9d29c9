"""`atlas-core train`: training alone."""

from __future__ import annotations

import json
from typing import Any

import click

from atlas_core.cli import options
from atlas_core.cli.progress import result


@click.command("train")
@options.starting
def train(**given: Any) -> None:
    """Train the network of a preset or a config file, and leave checkpoints in the run's folder.

    \b
    atlas-core train digits train.steps=500
    atlas-core train --resume runs/digits
    atlas-core train --resume runs/digits train.steps=5000
    """
    from atlas_core.cli.run import stopped
    from atlas_core.config.plan import TransportPlan
    from atlas_core.errors import UsageError

    start = options.Start(**given)
    plan, folder = options.opened(start)
    if isinstance(plan, TransportPlan):
        raise UsageError(
            f"{plan.origin} trains nothing: it couples two data sets",
            hint=f"atlas-core run {start.target or plan.origin}",
        )
    if start.dry_run:
        return
    from atlas_core.pipeline import Pipeline
    from atlas_core.workflow import train as train_run

    folder = folder or options.new_run(start, plan)
    pipeline = Pipeline(plan, folder, strict=start.strict)
    with options.watched(pipeline, start.quiet) as bars:
        for note in plan.notes:
            bars.say(note)
        bars.say(f"run {folder.path}")
        trained = train_run(pipeline, resume=start.resume is not None)
    if trained.stopped:
        raise stopped(trained)
    if start.as_json:
        latest = str(folder.latest_checkpoint())
        result(
            json.dumps({"schema": 1, "run": str(folder.path), "checkpoint": latest, "steps": trained.steps}, indent=2)
        )
        return
    result(f"{trained.steps} steps, {trained.seconds:.0f} s. Next: atlas-core sample {folder.path}")
