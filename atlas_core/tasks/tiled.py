"""Images larger than the network was trained for: it is applied to overlapping tiles, which are fused at every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch

from atlas_core.asked import check_whole
from atlas_core.engine.task import Task
from atlas_core.errors import UsageError
from atlas_core.tasks.given import image_shape, seeds_of

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.contracts import Denoiser, Process
    from atlas_core.pipeline import Pipeline


class TiledDenoiser:
    """Predict an image from its tiles: x̂₀ = Σ w x̂₀(tile) / Σ w, in every call (Bar-Tal et al. 2023, eq. 5).

    The weights w are a raised cosine, so that no tile ends in a seam; all tiles go through the network together, with
    the conditions of their rows, `batch` tiles at most at a time.
    """

    process: Process

    def __init__(self, denoiser: Denoiser, tile: tuple[int, int], overlap: tuple[int, int], batch: int = 64) -> None:
        """`tile`: height and width that the network takes; `overlap`: what neighbours share, in pixels, at least."""
        self.process = denoiser.process
        self._denoiser = denoiser
        self._tile = tile
        self._overlap = overlap
        self._batch = batch
        self._taken: dict[tuple[int, int], Denoiser] = {}

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x (b, c, h, w), t 0-d or (b,) -> (b, c, h, w)."""
        rows, corners = len(x), self._corners(x.shape[-2], x.shape[-1])
        (height, width), window = self._tile, self._window(x)
        fused, weight = torch.zeros_like(x), torch.zeros_like(x[:1, :1])
        together = max(1, self._batch // rows)
        for first in range(0, len(corners), together):
            part = corners[first : first + together]
            tiles = torch.cat([x[..., top : top + height, left : left + width] for top, left in part])
            times = t if t.ndim == 0 else t.repeat(len(part))
            predicted = self._of_rows(rows, len(part))(tiles, times) * window
            for (top, left), each in zip(part, predicted.view(len(part), *x.shape[:2], height, width), strict=True):
                fused[..., top : top + height, left : left + width] += each
                weight[..., top : top + height, left : left + width] += window
        return fused / weight

    def take(self, index: Tensor) -> TiledDenoiser:
        """Return the denoiser of the rows `index`, which may repeat."""
        return TiledDenoiser(self._denoiser.take(index), self._tile, self._overlap, self._batch)

    def _of_rows(self, rows: int, tiles: int) -> Denoiser:
        if (rows, tiles) not in self._taken:
            self._taken[rows, tiles] = self._denoiser.take(torch.arange(rows).repeat(tiles))
        return self._taken[rows, tiles]

    def _corners(self, height: int, width: int) -> list[tuple[int, int]]:
        tops = starts(height, self._tile[0], self._overlap[0])
        lefts = starts(width, self._tile[1], self._overlap[1])
        return [(top, left) for top in tops for left in lefts]

    def _window(self, x: Tensor) -> Tensor:
        sides = [torch.sin((torch.arange(n, dtype=torch.float64) + 0.5) * (math.pi / n)) ** 2 for n in self._tile]
        return (sides[0][:, None] * sides[1]).to(x)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return where tiles start so that they cover `length`, evenly spaced, each once, sharing `overlap` or more."""
    if length < tile:
        raise UsageError(f"{length} pixels are less than a tile of {tile}")
    count = 1 + math.ceil((length - tile) / (tile - overlap))
    return [round(i * (length - tile) / max(count - 1, 1)) for i in range(count)]


@attrs.frozen(slots=False, eq=False)
class InTiles(Task):
    """Apply the network to tiles."""

    tile: tuple[int, int]
    overlap: tuple[int, int]
    batch: int

    def wrap(self, denoiser: Denoiser, rows: slice) -> Denoiser:
        """Return the denoiser of whole images."""
        return TiledDenoiser(denoiser, self.tile, self.overlap, self.batch)


def tiled(
    pipeline: Pipeline,
    n: int,
    *,
    size: tuple[int, int],
    overlap: float = 0.5,
    seed: int | None = None,
    condition: Any = None,
    steps: int | None = None,
    nfe: int | None = None,
    batch: int | None = None,
) -> Tensor:
    """Draw n images of another size (height, width) than the network's -> float32 (n, c, *size).

    `size`: neither side smaller than the network's own; one of them may be equal. `overlap`: the share of a tile that
    its neighbour sees, too, from 0 to below 1; more of it agrees better and costs more. The other options are those
    of `Pipeline.sample`; `batch` counts images. Raises UsageError.
    """
    shape = image_shape(pipeline)
    if not isinstance(size, Sequence) or len(size) != 2:
        raise UsageError(f"size={size!r}: expected height and width, as (64, 96)")
    for side, length in zip(("height", "width"), size, strict=True):
        check_whole(f"the {side} of size", length, least=1)
    task = in_tiles(shape, size, overlap, pipeline.plan.sampling.batch)
    seeds, inputs = seeds_of(pipeline, seed, n), pipeline.conditions(condition, n)
    return pipeline.draw(seeds, inputs, steps=steps, nfe=nfe, batch=batch, task=task, shape=(shape[0], *size))


def in_tiles(shape: Sequence[int], size: tuple[int, int], overlap: float, batch: int) -> InTiles:
    """Return the task of tiles of `shape` (c, h, w) in images of `size`. Raises UsageError for what cannot be."""
    if not 0 <= overlap < 1:
        raise UsageError(f"overlap={overlap!r}: expected a share of the tile, at least 0 and below 1")
    for side, length, least in zip(("height", "width"), size, shape[1:], strict=True):
        if length < least:
            raise UsageError(f"size={size!r}: its {side} is below that of the network, {least}")
    tile = (shape[1], shape[2])
    shared = tuple(min(side - 1, round(side * overlap)) for side in tile)
    return InTiles(tile, (shared[0], shared[1]), batch)
