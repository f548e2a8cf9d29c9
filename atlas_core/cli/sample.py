"""`atlas-core sample`: draw from a trained network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from atlas_core.cli import options
from atlas_core.cli.progress import result


@click.command("sample")
@click.argument("run", metavar="RUN|CHECKPOINT", type=click.Path())
@options.OVERRIDES
@click.option("-n", "--count", default=16, show_default=True, type=click.IntRange(1), help="Samples to draw.")
@click.option("--seed", type=click.IntRange(0), help="Sample i is drawn from SEED + i. Default: the config's.")
@click.option(
    "--condition",
    help="A class, by number or name, or several with commas: one a sample, in turn. `none`: of no class. "
    "Default: all classes in turn.",
)
@click.option("--steps", type=click.IntRange(1), help="Steps of the sampler.")
@click.option("--nfe", type=click.IntRange(1), help="Calls of the network a sample, instead of --steps.")
@click.option("--size", metavar="HxW", help="Larger images than the run's, drawn in tiles.")
@click.option("--enlarge", type=click.IntRange(2), help="Images so many times the run's size, drawn coarse to fine.")
@click.option("--raw", is_flag=True, help="The weights themselves, not their moving average.")
@click.option(
    "--out", type=click.Path(file_okay=False), help="Folder for the images. Default: RUN/drawn-SEED, numbered if taken."
)
@options.QUIET
@options.JSON
def sample(
    run: str,
    overrides: tuple[str, ...],
    count: int,
    seed: int | None,
    condition: str | None,
    steps: int | None,
    nfe: int | None,
    size: str | None,
    enlarge: int | None,
    raw: bool,
    out: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Draw samples: a grid, one file each, and a manifest with the seed of every one of them.

    \b
    atlas-core sample runs/digits -n 20                     two of each digit
    atlas-core sample runs/digits -n 20 --condition 7
    atlas-core sample runs/digits --condition 0,1,2 --seed 100 --nfe 50
    atlas-core sample runs/digits sampler.use=ddpm-ancestral sampling.guidance.use=cfg
    atlas-core sample runs/digits --enlarge 2               twice as high and wide, coarse to fine
    atlas-core sample runs/digits --size 8x24               wider than what it was trained on, in tiles
    """
    from atlas_core.errors import UsageError
    from atlas_core.pipeline import load
    from atlas_core.report.pictures import write_samples
    from atlas_core.tasks import hierarchical, tiled

    if steps is not None and nfe is not None:
        raise UsageError("--steps and --nfe are two ways to say one thing: give one of them")
    if size is not None and enlarge is not None:
        raise UsageError("--size draws in tiles, --enlarge coarse to fine: give one of them")
    refuse_without_effect(overrides)
    asked = [f"sampling.{name}={value}" for name, value in (("steps", steps), ("nfe", nfe)) if value is not None]
    pipeline = load(run, [*overrides, *asked], average=not raw)
    first = pipeline.plan.sampling.seed if seed is None else seed
    with options.watched(pipeline, quiet):
        inputs = conditions_of(condition, count, _classes(pipeline))
        if size is not None:
            x = tiled(pipeline, count, size=_size(size), seed=first, steps=steps, nfe=nfe, condition=inputs)
        elif enlarge is not None:
            x = hierarchical(pipeline, count, factor=enlarge, seed=first, steps=steps, nfe=nfe, condition=inputs)
        else:
            x = pipeline.sample(count, seed=first, steps=steps, nfe=nfe, condition=inputs)
    folder = Path(out) if out else unused((pipeline.run.path if pipeline.run else Path()) / f"drawn-{first}")
    files = write_samples(pipeline, x, folder, first, inputs, steps=steps, nfe=nfe)
    if as_json:
        result(json.dumps({"schema": 1, "folder": str(folder), "files": [str(file) for file in files]}, indent=2))
        return
    result(f"{count} samples in {folder}: {files[0].name}, and manifest.json with their seeds")


def refuse_without_effect(overrides: tuple[str, ...]) -> None:
    """No sample depends on the data or on how samples are scored, once the network is trained."""
    from atlas_core.errors import UsageError

    for text in overrides:
        table = re.split(r"[.=\[]", text.strip(), maxsplit=1)[0]
        if table in ("data", "evaluate"):
            raise UsageError(
                f"{text!r} changes no sample", hint="`sampler` and `sampling` do; `atlas-core evaluate` takes the rest."
            )


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text.strip())
    if found is None:
        raise click.UsageError(f"--size {text}: expected height x width, as 64x96")
    return int(found[1]), int(found[2])


def _classes(pipeline: Any) -> int:
    return len(pipeline.spec.classes) if pipeline.network.conditioner is not None else 0


def unused(folder: Path) -> Path:
    """Return `folder`, or `folder-2`, …: what was drawn before stays as its manifest says."""
    number, path = 1, folder
    while path.exists():
        number += 1
        path = folder.with_name(f"{folder.name}-{number}")
    return path


def conditions_of(text: str | None, count: int, classes: int) -> list[Any] | None:
    """Read `7` or `0,1,2`: numbers are class indices, other words class names; repeated in turn to `count`."""
    if text is None:
        return [i % classes for i in range(count)] if classes else None
    if text == "none":
        return None
    words = text.split(",")
    if len(words) > count:
        raise click.UsageError(f"{len(words)} classes for {count} samples: ask for more with --count")
    given: list[Any] = [int(word) if word.strip().isdecimal() else word.strip() for word in words]
    return [given[i % len(given)] for i in range(count)]
