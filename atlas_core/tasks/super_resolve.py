"""Super-resolution: the means of blocks of pixels are given, the detail is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from atlas_core.asked import check_whole
from atlas_core.errors import UsageError
from atlas_core.tasks.given import given_images, image_shape, seeds_of
from atlas_core.tasks.known import WithKnown, check_passes
from atlas_core.tasks.pixels import block_means, repeated

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.pipeline import Pipeline


@attrs.frozen(eq=False)
class KnownMeans:
    """The mean of every block of factor × factor pixels is that of `small`."""

    small: Tensor
    factor: int

    def project(self, x0: Tensor) -> Tensor:
        """Shift every block to its mean."""
        return x0 + repeated(self.small.to(x0) - block_means(x0, self.factor), self.factor)

    def take(self, index: Tensor) -> KnownMeans:
        """Return the rows `index`."""
        return KnownMeans(self.small[index.cpu()], self.factor)


def super_resolve(
    pipeline: Pipeline,
    small: Tensor,
    *,
    factor: int = 2,
    passes: int = 3,
    seed: int | None = None,
    condition: Any = None,
    steps: int | None = None,
    nfe: int | None = None,
    batch: int | None = None,
) -> Tensor:
    """Draw images whose blocks of factor × factor pixels have the means `small` -> float32 (n, c, h, w).

    `small`: (n, c, h / factor, w / factor) in the data's range, h and w those of the pipeline's images. Any pipeline
    can: every prediction is corrected by what is known (Wang et al. 2023, DDNM), no network is trained for it. Only
    the clamp to the data's range can move a mean. `passes` as in `inpaint`, the other options those of
    `Pipeline.sample`. Raises UsageError.
    """
    channels, height, width = image_shape(pipeline)
    check_whole("factor", factor, least=1)
    if height % factor or width % factor:
        raise UsageError(f"factor={factor!r} must divide the height {height} and the width {width} of the images")
    small = given_images(pipeline, small, (channels, height // factor, width // factor), "small")
    check_passes(passes)
    seeds, inputs = seeds_of(pipeline, seed, len(small)), pipeline.conditions(condition, len(small))
    task = WithKnown(KnownMeans(small, factor), passes)
    return pipeline.draw(seeds, inputs, steps=steps, nfe=nfe, batch=batch, task=task)
