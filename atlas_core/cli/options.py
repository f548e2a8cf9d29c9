"""What several commands have in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import attrs
import click

F = TypeVar("F", bound=Callable[..., Any])

OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object when it is done.")
QUIET = click.option("--quiet", "-q", is_flag=True, help="No progress.")
STRICT = click.option("--strict", is_flag=True, help="Stop if a plugin's hook fails, instead of switching it off.")
RUNS = click.option("--runs", "root", default="runs", show_default=True, help="Folder in which runs are made.")
NAME = click.option("--name", help="Name of the run's folder; by default the config's own, numbered if taken.")
DRY_RUN = click.option("--dry-run", is_flag=True, help="Check everything, print the plan, and stop before training.")
RESUME = click.option(
    "--resume", type=click.Path(), metavar="RUN", help="Go on with the run in this folder, to the same bits."
)


def starting(command: F) -> F:
    """Give a command the arguments and options of everything that starts or resumes a run."""
    target = click.argument("target", required=False, metavar="PRESET|FILE")
    for decorate in reversed((target, OVERRIDES, NAME, RUNS, RESUME, DRY_RUN, STRICT, QUIET, JSON)):
        command = decorate(command)
    return command


@attrs.frozen
class Start:
    """What the user asked of `run` or `train`, under the names of the options."""

    target: str | None
    overrides: tuple[str, ...]
    name: str | None
    root: str
    resume: str | None
    dry_run: bool
    strict: bool
    quiet: bool
    as_json: bool


@contextmanager
def watched(pipeline: Any, quiet: bool) -> Iterator[Any]:
    """Show the progress of a pipeline for as long as the block runs."""
    from atlas_core.cli.progress import Bars

    with Bars(quiet=quiet) as bars:
        pipeline.events.register(bars)
        yield bars


def opened(start: Start) -> tuple[Any, Any]:
    """Return (plan, run): of a preset or file for a new run, or those of the run to resume.

    The run is None for a new one, which is made when the config proves to be good, and for a dry one, whose plan is
    printed here. Raises UsageError.
    """
    document, run = _document(start)
    plan = document.resolve()
    if start.dry_run:
        from atlas_core.cli.progress import result

        result(json.dumps(plan.table, indent=2) if start.as_json else plan.describe())
    return plan, run


def new_run(start: Start, plan: Any) -> Any:
    """Make the folder of a new run."""
    from atlas_core.config.plan import TransportPlan
    from atlas_core.runs.folder import RunFolder

    name = plan.name if start.name is None else start.name
    return RunFolder.create(start.root, name, training=not isinstance(plan, TransportPlan))


def _document(start: Start) -> tuple[Any, Any]:
    from atlas_core.config.document import load_document
    from atlas_core.errors import UsageError
    from atlas_core.runs.folder import RunFolder, check_name

    target, overrides = start.target, start.overrides
    if start.name is not None:
        check_name(start.name)
    if start.resume is None:
        if target is None:
            raise UsageError("name a preset or a config file", hint="`atlas-core presets` lists the presets")
        return load_document(target, overrides), None
    if start.name is not None:
        raise UsageError("--name is for new runs; --resume goes on with the one that it names")
    run = RunFolder.open(start.resume)
    if target is not None:
        # With --resume the config is the run's own, so a first word without `=` can only be a slip.
        if "=" not in target:
            raise UsageError(f"--resume takes the config of {start.resume}: leave out {target!r}")
        overrides = (target, *overrides)
    return load_document(run.config_toml, overrides), run
