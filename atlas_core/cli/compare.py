"""`atlas-core compare`: samplers side by side."""

from __future__ import annotations

import json

import click

from atlas_core.cli import options
from atlas_core.cli.progress import result


@click.command("compare")
@click.argument("run", metavar="RUN|CHECKPOINT", type=click.Path())
@options.OVERRIDES
@click.option(
    "--samplers",
    metavar="NAME[@GRID],…",
    help="Samplers, each with a grid if it is not to have the run's. Default: the run's own, and every other that "
    "integrates a denoiser in a fixed number of steps.",
)
@click.option("--nfe", "budgets", default="5,8,10,20", show_default=True, help="Calls of the network a sample.")
@click.option("-n", "--count", type=click.IntRange(2), default=500, show_default=True, help="Samples of each.")
@click.option("--seed", type=click.IntRange(0), help="Sample i is drawn from SEED + i. Default: the config's.")
@click.option("--reference", type=click.IntRange(1), default=200, show_default=True, help="NFE of the fine solution.")
@options.QUIET
@options.JSON
def compare(
    run: str,
    overrides: tuple[str, ...],
    samplers: str | None,
    budgets: str,
    count: int,
    seed: int | None,
    reference: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Compare samplers at equal calls of one network: a table, a plot and pictures from the same seeds, in its report.

    \b
    atlas-core compare runs/digits --samplers euler,heun,dpmpp-2m --nfe 5,10,20
    atlas-core compare runs/digits --samplers euler@karras,euler@logistic-log-snr --nfe 8
    atlas-core compare runs/digits 'evaluate.metrics=[{use="sliced-wasserstein"}]' --count 200

    `error` is the distance from the fine solution that the network itself has: what the sampler does wrong. The scores
    are distances from real data: what you see.
    """
    from atlas_core.comparing import compare as measure
    from atlas_core.comparing import new_folder, save
    from atlas_core.errors import UsageError
    from atlas_core.pipeline import load
    from atlas_core.report.page import write_report

    pipeline = load(run, overrides)
    if pipeline.run is None:
        raise UsageError(f"{run} is a checkpoint without its run: there is no report to write", hint="name the run")
    names = (
        [name for word in samplers.split(",") if (name := word.strip())] if samplers else _fixed_step_samplers(pipeline)
    )
    allowed = _budgets(budgets)
    with options.watched(pipeline, quiet):
        folder = new_folder(pipeline.run.path)
        try:
            found = measure(pipeline, names, allowed, count=count, seed=seed, reference_nfe=reference, folder=folder)
            save(found, folder)
        finally:
            if not any(folder.iterdir()):
                folder.rmdir()
    report = write_report(pipeline.run)
    if as_json:
        result(json.dumps({**found.to_json(), "folder": str(folder), "report": str(report)}, indent=2))
        return
    result(f"{found.table()}\n\nOpen {report}")


def _budgets(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise click.UsageError(f"--nfe {text}: expected whole numbers above 0 with commas, as 5,10,20")
    return [int(word) for word in dict.fromkeys(words)]


def _fixed_step_samplers(pipeline: object) -> list[str]:
    """The pipeline's own sampler first, then every other that works and takes a budget."""
    from atlas_core.building import build
    from atlas_core.errors import AtlasError
    from atlas_core.pipeline import Pipeline

    assert isinstance(pipeline, Pipeline)
    own = pipeline.plan.sampler.id
    names = [own]
    for entry in pipeline.plan.registry.entries("sampler"):
        try:
            sampler = build("sampler", entry.id)
        except AtlasError:
            continue  # broken, or without sensible defaults: `list-plugins --check` tells
        if "denoiser" in sampler.accepts and sampler.nfe(1) is not None and entry.id != own:
            names.append(entry.id)
    return names
