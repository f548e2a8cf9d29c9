"""`atlas-core edit`: variations, completions and enlargements of images."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atlas_core.cli import options
from atlas_core.cli.progress import result
from atlas_core.cli.sample import conditions_of, refuse_without_effect, unused

if TYPE_CHECKING:
    from torch import Tensor


@click.command("edit")
@click.argument("run", metavar="RUN|CHECKPOINT", type=click.Path())
@click.argument("images", metavar="IMAGE|FOLDER", type=click.Path())
@options.OVERRIDES
@click.option("--strength", type=float, help="Variations: share of noise to start from, 0 to 1. Default: 0.6.")
@click.option("--mask", type=click.Path(), help="Complete the images: what is bright in this picture is kept.")
@click.option("--enlarge", type=click.IntRange(2), help="Enlarge small images by this factor to the size of the run's.")
@click.option("--passes", type=click.IntRange(1), help="With --mask or --enlarge: how often the steps are walked.")
@click.option("-n", "--count", default=1, show_default=True, type=click.IntRange(1), help="Results for each image.")
@click.option("--seed", type=click.IntRange(0), help="Result i is drawn from SEED + i. Default: the config's.")
@click.option("--condition", help="A class, by number or name, or several with commas: one a result, in turn.")
@click.option("--steps", type=click.IntRange(1), help="Steps of the sampler.")
@click.option("--nfe", type=click.IntRange(1), help="Calls of the network a sample, instead of --steps.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder. Default: RUN/edited-SEED, numbered if taken.")
@options.QUIET
@options.JSON
def edit(
    run: str,
    images: str,
    overrides: tuple[str, ...],
    strength: float | None,
    mask: str | None,
    enlarge: int | None,
    passes: int | None,
    count: int,
    seed: int | None,
    condition: str | None,
    steps: int | None,
    nfe: int | None,
    out: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Draw from images instead of from noise alone: variations, missing parts, missing detail.

    \b
    atlas-core edit runs/digits seven.png --strength 0.5 -n 8
    atlas-core edit runs/digits halves/ --mask left-half.png --condition 7
    atlas-core edit runs/digits small.png --enlarge 2
    """
    from atlas_core.errors import UsageError
    from atlas_core.pipeline import load
    from atlas_core.report.pictures import write_samples
    from atlas_core.tasks.given import image_shape
    from atlas_core.tasks.reading import image_files, read_images

    if sum(each is not None for each in (strength, mask, enlarge)) > 1:
        raise UsageError("--strength, --mask and --enlarge are three tasks: give one of them")
    if passes is not None and mask is None and enlarge is None:
        raise UsageError("--passes goes with --mask or --enlarge")
    if steps is not None and nfe is not None:
        raise UsageError("--steps and --nfe are two ways to say one thing: give one of them")
    refuse_without_effect(overrides)
    pipeline = load(run, overrides)
    channels, height, width = image_shape(pipeline)
    factor = enlarge or 1
    if height % factor or width % factor:
        raise UsageError(f"--enlarge {factor} does not divide the run's images of {width} × {height} pixels")
    files = image_files([Path(images)])
    size = (channels, height // factor, width // factor)
    given = read_images(files, size, pipeline.spec.value_range).repeat_interleave(count, 0)
    first = pipeline.plan.sampling.seed if seed is None else seed
    inputs = conditions_of(condition, len(given), 0)
    task = _task(strength, mask, enlarge, passes, (channels, height, width))
    with options.watched(pipeline, quiet):
        x = task(pipeline, given, seed=first, condition=inputs, steps=steps, nfe=nfe)
    folder = Path(out) if out else unused((pipeline.run.path if pipeline.run else Path()) / f"edited-{first}")
    written = write_samples(pipeline, x, folder, first, inputs, steps=steps, nfe=nfe)
    if as_json:
        result(json.dumps({"schema": 1, "folder": str(folder), "files": [str(file) for file in written]}, indent=2))
        return
    result(f"{len(x)} images in {folder}, {count} for each of {len(files)}: {written[0].name} shows them all")


def _task(
    strength: float | None, mask: str | None, enlarge: int | None, passes: int | None, shape: tuple[int, int, int]
) -> Callable[..., Tensor]:
    """Return the task that the options ask for, to be called with the pipeline, the images and what all tasks take."""
    from atlas_core import tasks
    from atlas_core.tasks.reading import read_mask

    often: dict[str, Any] = {} if passes is None else {"passes": passes}
    if mask is not None:
        return partial(tasks.inpaint, mask=read_mask(Path(mask), shape), **often)
    if enlarge is not None:
        return partial(tasks.super_resolve, factor=enlarge, **often)
    return partial(tasks.image_to_image, strength=0.6 if strength is None else strength)
