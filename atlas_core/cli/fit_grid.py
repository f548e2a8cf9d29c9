"""`atlas-core fit-grid`: the noise levels at which a network is best called."""

from __future__ import annotations

import json

import attrs
import click

from atlas_core.cli import options
from atlas_core.cli.progress import result


@click.command("fit-grid")
@click.argument("run", metavar="RUN|CHECKPOINT", type=click.Path())
@options.OVERRIDES
@click.option("--steps", "counts", default="8", show_default=True, help="Numbers of steps, with commas: 5,8,10.")
@click.option("--grid", default=None, help="A grid that can be fitted. Default: fitted, of atlas-solvers-builtin.")
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), help="Time for each number of steps. Default: 50."
)
@options.QUIET
@options.JSON
def fit_grid(
    run: str,
    overrides: tuple[str, ...],
    counts: str,
    grid: str | None,
    seconds: float | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Find where the run's sampler should step, from the run's own network, and keep it with the checkpoint.

    From then on `sample`, `evaluate` and `compare` step there, whenever they use this sampler and guidance with as many
    steps; `sampling.grid.use=…` still has precedence.

    \b
    atlas-core fit-grid runs/digits --steps 5,8
    atlas-core fit-grid runs/digits --steps 10 sampling.guidance.use=cfg
    """
    from atlas_core.fitted_grids import DEFAULT, FittedSteps, fit_grids
    from atlas_core.pipeline import load

    steps = _counts(counts)
    pipeline = load(run, overrides)
    table = {"use": grid or DEFAULT, **({"seconds": seconds} if seconds is not None else {})}

    def told(fitted: FittedSteps) -> None:
        if not (quiet or as_json):
            click.echo(f"{fitted.steps} steps: {_words(fitted)}", err=True)

    rows = fit_grids(pipeline, steps, grid=table, on_fit=told)
    where = str(pipeline.checkpoint)
    if as_json:
        result(json.dumps({"schema": 1, "checkpoint": where, "fits": [attrs.asdict(row) for row in rows]}, indent=2))
        return
    lines = ["steps  NFE     before      after  samples"]
    lines += [f"{r.steps:5}  {r.nfe:3}  {r.before:9.4g}  {r.after:9.4g}  {r.samples:7}" for r in rows]
    lines += [
        "",
        "Distance from the sampler's own fine solution, a value of a sample (root mean square).",
        f"Kept in {where}",
    ]
    result("\n".join(lines))


def _words(fitted: object) -> str:
    before, after = getattr(fitted, "before", 0.0), getattr(fitted, "after", 0.0)
    return f"error {before:.4g} -> {after:.4g}" if after < before else f"error {before:.4g}: nothing better was found"


def _counts(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise click.UsageError(f"--steps {text}: expected whole numbers above 0 with commas, as 5,8,10")
    return [int(word) for word in words]
