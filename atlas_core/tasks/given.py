"""Reading what a task is given: images that must fit the pipeline, and the seeds of what is drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from atlas_core.asked import seeds_from
from atlas_core.errors import UsageError

if TYPE_CHECKING:
    from atlas_core.pipeline import Pipeline


def given_images(
    pipeline: Pipeline, images: Tensor, shape: Sequence[int] | None = None, name: str = "images"
) -> Tensor:
    """Return the images as float32 (n, *shape) on the CPU; `shape` is by default that of the data.

    Raises UsageError for another shape, for numbers that are not finite, and outside the data's value range.
    """
    expected = tuple(pipeline.spec.shape if shape is None else shape)
    if not isinstance(images, Tensor) or tuple(images.shape[1:]) != expected:
        found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise UsageError(f"{name} must be a tensor (n, {', '.join(map(str, expected))}), not {found}")
    if not len(images):
        raise UsageError(f"{name} is empty")
    images = images.detach().to("cpu", torch.float32)
    if not bool(images.isfinite().all()):
        raise UsageError(f"{name} holds numbers that are not finite")
    limits = pipeline.spec.value_range
    if limits is not None and not limits[0] - 1e-3 <= float(images.min()) <= float(images.max()) <= limits[1] + 1e-3:
        raise UsageError(
            f"{name} holds values from {float(images.min()):g} to {float(images.max()):g}; the data of this pipeline "
            f"lies in [{limits[0]:g}, {limits[1]:g}]",
            hint="Bytes become this range by x / 127.5 - 1." if tuple(limits) == (-1, 1) else "",
        )
    return images


def image_shape(pipeline: Pipeline) -> tuple[int, int, int]:
    """Return channels, height and width of the pipeline's images. Raises UsageError where the data is no image."""
    shape = tuple(pipeline.spec.shape)
    if len(shape) != 3:
        raise UsageError(
            f"this pipeline draws items of shape {shape}; the task is for images (channels, height, width)"
        )
    return shape


def seeds_of(pipeline: Pipeline, seed: int | None, n: int) -> range:
    """Return the seeds of n samples: sample i has `seed` + i, by default the config's."""
    return seeds_from(pipeline.plan.sampling.seed if seed is None else seed, n)
