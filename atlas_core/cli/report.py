"""`atlas-core report`: write the page of a run again."""

from __future__ import annotations

import json

import click

from atlas_core.cli import options
from atlas_core.cli.progress import result


@click.command("report")
@click.argument("run", metavar="RUN", type=click.Path())
@options.JSON
def report(run: str, as_json: bool) -> None:
    """Write report.html of a run from the files in its folder: nothing is trained or drawn.

    \b
    atlas-core report runs/digits
    """
    from atlas_core.report.page import write_report
    from atlas_core.report.transport import is_transport_run, write_transport_report
    from atlas_core.runs.folder import RunFolder

    folder = RunFolder.open(run)
    path = write_transport_report(folder) if is_transport_run(folder) else write_report(folder)
    result(json.dumps({"schema": 1, "report": str(path)}) if as_json else f"Open {path}")
