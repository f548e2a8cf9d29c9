"""The pictures of a run: previews while it trains; at the end samples by class, a denoising strip and a manifest."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas_core.config.lock import lock
from atlas_core.report.images import grid_png, scatter_png, single_png, strip_png
from atlas_core.runs.atomic import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.pipeline import Pipeline

SHOWN, ROWS, STRIP_ROWS, STRIP_FRAMES = 64, 10, 4, 10
"""Images of a preview without classes; rows of a grid by class; rows and frames of the strip."""


def preview(pipeline: Pipeline, step: int) -> None:
    """Draw samples/step-….png: a few samples of every class, from the same seeds at every step."""
    count, columns = _layout(pipeline, rows=4)
    labels = _labels(pipeline, count)
    x = pipeline.draw(range(pipeline.plan.sampling.seed, pipeline.plan.sampling.seed + count), labels)
    assert pipeline.run is not None
    _picture(pipeline, x, pipeline.run.samples / f"step-{step:08d}.png", columns, labels)


def final_pictures(pipeline: Pipeline, folder: Path | None = None, overrides: Sequence[str] = ()) -> Tensor:
    """Draw samples.png, samples/strip.png and manifest.json of a run into `folder`; return the samples (n, *item).

    Without a folder, the run's own. `overrides` are what the pipeline was opened with; the manifest names them.
    Sample i has seed `sampling.seed` + i and class i mod the number of classes: a column a class.
    """
    if folder is None:
        assert pipeline.run is not None
        folder = pipeline.run.path
    count, columns = _layout(pipeline, rows=ROWS)
    labels = _labels(pipeline, count)
    seeds = range(pipeline.plan.sampling.seed, pipeline.plan.sampling.seed + count)
    x = pipeline.draw(seeds, labels)
    _picture(pipeline, x, folder / "samples.png", columns, labels)
    entries = [
        {
            "file": "samples.png",
            "row": i // columns,
            "column": i % columns,
            "seed": seed,
            "condition": None if labels is None else labels[i],
        }
        for i, seed in enumerate(seeds)
    ]
    write_manifest(pipeline, folder / "manifest.json", entries, overrides)
    if _is_image(pipeline):
        _strip(pipeline, folder / "samples" / "strip.png")
    return x


def write_samples(
    pipeline: Pipeline, x: Tensor, folder: Path, seed: int, inputs: Sequence[Any] | None, **settings: Any
) -> list[Path]:
    """Write samples x (n, *item), drawn from `seed` on: a grid, one PNG each, manifest.json; points as samples.npy."""
    import numpy as np

    entries: list[dict[str, Any]] = []
    files = [folder / "samples.png"] if x.ndim in (2, 4) else []
    columns = min(len(x), 10)
    if files:
        _picture(pipeline, x, files[0], columns, inputs)
    for i, item in enumerate(x):
        name = f"{seed + i:06d}.png" if _is_image(pipeline) else "samples.npy"
        if _is_image(pipeline):
            single_png(item, folder / name, pipeline.spec.value_range)
            files.append(folder / name)
        given = None if inputs is None else inputs[i]
        entries.append({"file": name, "index": i, "seed": seed + i, "condition": given})
    if not _is_image(pipeline):
        buffer = io.BytesIO()
        np.save(buffer, x.numpy(), allow_pickle=False)
        write_atomically(folder / "samples.npy", buffer.getvalue())
        files.insert(0, folder / "samples.npy")
    write_manifest(pipeline, folder / "manifest.json", entries, **settings)
    return files


def write_manifest(
    pipeline: Pipeline, path: Path, images: Sequence[dict[str, Any]], overrides: Sequence[str] = (), **settings: Any
) -> None:
    """Write the seed and condition of every image, and how it was drawn: enough to draw any of them again, alone."""
    plan = pipeline.plan
    times = pipeline.times(**settings)
    sampler = pipeline.plan.sampler.build()
    latest = pipeline.run.latest_checkpoint() if pipeline.run is not None else None
    asked = {key: settings.get(key) for key in ("steps", "nfe")}
    if not any(asked.values()):
        asked = {"steps": plan.sampling.steps, "nfe": plan.sampling.nfe}
    parts = (plan.process, plan.parametrization, plan.model, plan.conditioner, plan.sampler, plan.grid, plan.guidance)
    drew = lock(each for part in parts if part is not None for each in part.components())
    content = {
        "schema": 1,
        "checkpoint": str(latest) if latest else None,
        "overrides": list(overrides),
        "sampler": plan.sampler.table,
        "grid": plan.grid.table,
        "guidance": plan.guidance.table,
        "requested": asked,
        "steps": len(times) - 1,
        "nfe": sampler.nfe(len(times) - 1),
        "versions": drew["versions"],
        "parts": drew["components"],
        "images": list(images),
    }
    write_atomically(path, json.dumps(content, indent=1))


def _strip(pipeline: Pipeline, path: Path) -> None:
    """The noise; what the sampler takes the clean image to be, from the first step to the last; the sample."""
    from atlas_core.engine.noise import CounterNoise

    labels = _labels(pipeline, STRIP_ROWS, spread=True)
    frames: list[tuple[float, Tensor]] = []
    seed = pipeline.plan.sampling.seed
    x = pipeline.draw(
        range(seed, seed + STRIP_ROWS),
        labels,
        on_step=lambda step, rows: frames.append((step.t, step.x0)) if step.x0 is not None else None,
    )
    if not frames:
        return
    noise = CounterNoise.from_seeds(range(seed, seed + STRIP_ROWS)).normal("prior", 0, x)
    most = min(STRIP_FRAMES - 2, len(frames))
    chosen = [frames[round(i * (len(frames) - 1) / max(most - 1, 1))] for i in range(most)]
    titles = ["noise", *(f"t = {t:.2f}" for t, _ in chosen), "sample"]
    strip_png(
        [noise / 2, *(x0.cpu() for _, x0 in chosen), x],
        path,
        pipeline.spec.value_range,
        titles,
    )


def _picture(pipeline: Pipeline, x: Tensor, path: Path, columns: int, labels: Sequence[Any] | None) -> None:
    if _is_image(pipeline):
        classes = pipeline.spec.classes
        # A title stands over a column only if all of the column is of that class.
        in_turn = bool(classes) and labels is not None and list(labels) == [i % len(classes) for i in range(len(x))]
        titles = classes if in_turn and columns == len(classes) else ()
        grid_png(x, path, columns, pipeline.spec.value_range, titles)
    elif x.ndim == 2:
        scatter_png(x, path, real=_real(pipeline, len(x)))


def _is_image(pipeline: Pipeline) -> bool:
    return len(pipeline.spec.shape) == 3 and pipeline.spec.shape[0] in (1, 3, 4)


def _layout(pipeline: Pipeline, rows: int) -> tuple[int, int]:
    """Return the number of samples and of columns."""
    classes = len(pipeline.spec.classes)
    if not _is_image(pipeline):
        return 1000, 1
    if pipeline.network.conditioner is not None and 1 < classes <= 2 * ROWS:
        return rows * classes, classes
    return SHOWN, 8


def _labels(pipeline: Pipeline, count: int, *, spread: bool = False) -> list[int] | None:
    classes = len(pipeline.spec.classes)
    if pipeline.network.conditioner is None or not classes:
        return None
    return [i * classes // count if spread else i % classes for i in range(count)]


def _real(pipeline: Pipeline, most: int) -> Tensor:
    import torch

    split = pipeline.plan.dataset.split("train")
    return torch.stack([split[i].x for i in range(min(most, len(split)))])
