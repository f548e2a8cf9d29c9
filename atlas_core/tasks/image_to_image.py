"""Image to image: noise that was added to a given image is taken away again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import torch

from atlas_core.engine.task import Task
from atlas_core.tasks.given import given_images, seeds_of
from atlas_core.tasks.levels import time_of_strength

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.contracts import NoiseSource, Process
    from atlas_core.pipeline import Pipeline


@attrs.frozen(slots=False, eq=False)
class FromImages(Task):
    """Start from given images at the noise level of `latest`, rather than from noise."""

    images: Tensor
    latest: float | None = None

    def start(self, process: Process, noise: NoiseSource, like: Tensor, t: float, rows: slice) -> Tensor:
        """Return α x₀ + σ z, exactly the state that training knows at time t."""
        return process.mix(
            self.images[rows].to(like), noise.normal("prior", 0, like), torch.tensor(t, dtype=torch.float64)
        )


def image_to_image(
    pipeline: Pipeline,
    images: Tensor,
    *,
    strength: float = 0.6,
    seed: int | None = None,
    condition: Any = None,
    steps: int | None = None,
    nfe: int | None = None,
    batch: int | None = None,
) -> Tensor:
    """Draw variations of images (n, *item) in the data's range -> float32 (n, *item).

    `strength`: the share of noise σ/(α + σ) that each image is mixed with; 1 leaves nothing of it. The grid is laid
    anew from there to 0, so that all `steps` are spent on what is left to do. The other options are those of
    `Pipeline.sample`. Raises UsageError. The idea is SDEdit's (Meng et al. 2022, alg. 1).
    """
    images = given_images(pipeline, images)
    task = FromImages(images, time_of_strength(pipeline.network.process, strength))
    seeds, inputs = seeds_of(pipeline, seed, len(images)), pipeline.conditions(condition, len(images))
    return pipeline.draw(seeds, inputs, steps=steps, nfe=nfe, batch=batch, task=task)
