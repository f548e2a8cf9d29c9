"""Inpainting: a part of the image is given, the rest is drawn to fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import torch

from atlas_core.errors import UsageError
from atlas_core.tasks.given import given_images, seeds_of
from atlas_core.tasks.known import WithKnown, check_passes

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.pipeline import Pipeline


@attrs.frozen(eq=False)
class KnownPixels:
    """x₀ = image where the mask is true."""

    image: Tensor
    mask: Tensor

    def project(self, x0: Tensor) -> Tensor:
        """Put the known pixels in."""
        return self.image.to(x0).where(self.mask.to(x0.device), x0)

    def take(self, index: Tensor) -> KnownPixels:
        """Return the rows `index`."""
        return KnownPixels(self.image[index.cpu()], self.mask[index.cpu()])


def inpaint(
    pipeline: Pipeline,
    images: Tensor,
    mask: Tensor,
    *,
    passes: int = 4,
    seed: int | None = None,
    condition: Any = None,
    steps: int | None = None,
    nfe: int | None = None,
    batch: int | None = None,
) -> Tensor:
    """Draw what is missing of images (n, *item) in the data's range -> float32 (n, *item).

    `mask`: bool, true where the image is kept, to the bit; (n, *item) or anything that broadcasts to it. `passes`: how
    often the steps are walked, back and forth (Lugmayr et al. 2022): with one, the drawn part is blind to how it will
    fit when the noise is large; each more costs as many calls of the network again. The other options are those of
    `Pipeline.sample`. Raises UsageError.
    """
    images = given_images(pipeline, images)
    known = KnownPixels(images, given_mask(mask, images))
    check_passes(passes)
    seeds, inputs = seeds_of(pipeline, seed, len(images)), pipeline.conditions(condition, len(images))
    return pipeline.draw(seeds, inputs, steps=steps, nfe=nfe, batch=batch, task=WithKnown(known, passes))


def given_mask(mask: Tensor, images: Tensor) -> Tensor:
    """Return the mask in the shape of the images. Raises UsageError for another dtype, a shape that does not fit."""
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
        found = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise UsageError(f"mask must be a tensor of bool, true where the image is kept, not {found}")
    try:
        return mask.cpu().expand(images.shape)
    except RuntimeError:
        raise UsageError(f"a mask {tuple(mask.shape)} does not fit images {tuple(images.shape)}") from None
