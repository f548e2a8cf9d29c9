"""`atlas-core transport`: two files or folders, coupled."""

from __future__ import annotations

import json
from typing import Any

import click

from atlas_core.cli import options
from atlas_core.cli.progress import result

NOT_CONVERGED = 3
"""Exit code of a transport that is written in full although its solver did not converge."""


@click.command("transport")
@click.argument("source", metavar="A")
@click.argument("target", metavar="B")
@options.OVERRIDES
@options.NAME
@options.RUNS
@click.option("--dry-run", is_flag=True, help="Check everything, print the plan, and stop before anything is solved.")
@options.QUIET
@options.JSON
def transport(
    source: str,
    target: str,
    overrides: tuple[str, ...],
    name: str | None,
    root: str,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Couple A with B by optimal transport, map A onto B, and report: folders of images, CSV, TSV, Parquet, NPY or NPZ.

    \b
    atlas-core transport before.csv after.csv
    atlas-core transport before.csv after.csv solver.epsilon=0.01 source.weights=mass
    atlas-core transport photos/ paintings/ source.size=32 target.size=32
    atlas-core transport before.npy after.npy solver.use=exact --name exact

    The cost is that of the solver's kernel. The run's folder holds the coupling, the mapped points in the format of A,
    and report.html. Exit code 3: all of that was written, but the solver did not converge.
    """
    from atlas_core.config.transport_paths import document_of
    from atlas_core.runs.folder import RunFolder, check_name

    if name is not None:
        check_name(name)
    plan = document_of(source, target, overrides).resolve()
    if dry_run:
        result(json.dumps(plan.table, indent=2) if as_json else plan.describe())
        return 0
    folder = RunFolder.create(root, plan.name if name is None else name, training=False)
    return carry_out(plan, folder, quiet=quiet, as_json=as_json)


def carry_out(plan: Any, folder: Any, *, quiet: bool, as_json: bool) -> int:
    """Run a transport and print what came of it; return the exit code: 0, or 3 if the solver did not converge."""
    from atlas_core.cli.progress import Bars
    from atlas_core.report.transport import verdict
    from atlas_core.transport import run_transport

    with Bars(quiet=quiet) as bars:
        bars.say(f"run {folder.path}")
        bars.pulse("transport")
        summary = run_transport(plan, folder, say=bars.say)
    result(json.dumps(summary, indent=2) if as_json else text(summary))
    if summary["solution"]["converged"] is False or summary["solution"]["cost"] is None:
        click.echo(f"not converged: {verdict(summary['solution'])[2]}", err=True)
        return NOT_CONVERGED
    return 0


def text(summary: dict[str, Any]) -> str:
    """Return the numbers of a transport, its scores and where the rest is, for a terminal."""
    from atlas_core.report.transport import numbers

    rows = [(what, value) for what, value, _ in numbers(summary["solution"])]
    for name, metric in summary["metrics"].items():
        floor = f" (real data {metric['floor']:.4g})" if metric["floor"] is not None else ""
        value = f"{metric['value']:.4g}{floor}" if metric["value"] is not None else metric.get("error", "no value")
        rows.append((f"{name}, mapped", value))
    width = max(len(what) for what, _ in rows)
    lines = [f"{what:<{width}}  {value}" for what, value in rows]
    mapped = f"{summary['run']}/{summary['files']['mapped']}"
    return "\n".join([*lines, "", f"Mapped points: {mapped}", f"Open {summary['report']}"])
