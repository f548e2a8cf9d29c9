"""Pictures of samples that a person can look at, however small the samples are. PIL and numpy alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atlas_core.runs.atomic import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Pixels = NDArray[np.uint8]

SEEN = 64
"""Pixels a side that an item has on the page at least: an 8 × 8 digit is enlarged eight times."""
GAP = 2
HEADER = 22


def grid_png(
    x: Tensor,
    path: Path,
    columns: int,
    value_range: tuple[float, float] | None = (-1.0, 1.0),
    titles: Sequence[str] = (),
) -> None:
    """Write images x (n, c, h, w) as a grid of `columns`, row by row; `titles` stand above the columns.

    Values are clamped to `value_range` (None: the range of x). Small images are enlarged by a whole factor.
    Raises ValueError for items that are no images (1, 3 or 4 channels) and for no items.
    """
    tiles = _tiles(x, value_range)
    _write(_on_grid(tiles, columns, titles), path)


def single_png(x: Tensor, path: Path, value_range: tuple[float, float] | None = (-1.0, 1.0)) -> None:
    """Write one image x (c, h, w) at its own size, for other programs to read."""
    from PIL import Image

    tile = _bytes(x[None], value_range)[0]
    _write(Image.fromarray(tile[..., 0] if tile.shape[2] == 1 else tile), path)


def strip_png(
    frames: Sequence[Tensor],
    path: Path,
    value_range: tuple[float, float] | None = (-1.0, 1.0),
    titles: Sequence[str] = (),
) -> None:
    """Write the stages of some samples: a column a frame (n, c, h, w), a row a sample; `titles` stand above the frames.

    Raises ValueError for frames of different shapes, and as `grid_png` does.
    """
    if not frames or len({tuple(frame.shape) for frame in frames}) != 1:
        raise ValueError(f"a strip needs frames of one shape, not {[tuple(frame.shape) for frame in frames]}")
    tiles = [_tiles(frame, value_range) for frame in frames]
    in_rows = [tiles[column][row] for row in range(len(tiles[0])) for column in range(len(frames))]
    _write(_on_grid(in_rows, len(frames), titles), path)


def scatter_png(generated: Tensor, path: Path, real: Tensor | None = None, *, most: int = 2000) -> None:
    """Write points generated (n, d) over real ones (m, d): the first two coordinates; of one coordinate, histograms.

    At most the first `most` points of either are drawn.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), dpi=120, layout="constrained")
    axes: Any = figure.add_subplot()
    sets = [(name, _array(x)[:most]) for name, x in (("real", real), ("generated", generated)) if x is not None]
    for name, points in sets:
        colour, marker = {"real": ("#8a8f98", "o"), "generated": ("#2f6fde", "x")}[name]
        if points.shape[1] == 1:
            axes.hist(points[:, 0], bins=60, density=True, histtype="step", color=colour, label=name)
        else:
            axes.scatter(
                points[:, 0], points[:, 1], s=9, c=colour, marker=marker, linewidths=0.8, alpha=0.6, label=name
            )
            axes.set_aspect("equal", adjustable="datalim")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(Path(path), buffer.getvalue())


def _array(x: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = x.detach().cpu().float().numpy()
    return array


def _tiles(x: Tensor, value_range: tuple[float, float] | None) -> list[Pixels]:
    """Turn (n, c, h, w) into n arrays (height, width, 1 | 3 | 4) of bytes, enlarged."""
    from PIL import Image

    pixels = _bytes(x, value_range)
    _, height, width, channels = pixels.shape
    factor = max(1, -(-SEEN // max(height, width)))
    if factor == 1:
        return list(pixels)
    # Smoothly: shown as 64 flat squares, an 8 × 8 digit is hard to read for anyone who does not squint.
    size, bicubic = (width * factor, height * factor), Image.Resampling.BICUBIC
    images = (Image.fromarray(item[..., 0] if channels == 1 else item).resize(size, bicubic) for item in pixels)
    return [np.asarray(image).reshape(height * factor, width * factor, channels) for image in images]


def _bytes(x: Tensor, value_range: tuple[float, float] | None) -> Pixels:
    """Turn (n, c, h, w) into (n, h, w, 1 | 3 | 4) of bytes."""
    array = _array(x)
    if array.ndim != 4 or array.shape[1] not in (1, 3, 4) or not len(array):
        raise ValueError(
            f"(n, 1 | 3 | 4, h, w) wanted, got {array.shape}: these are no images; use scatter_png for points"
        )
    low, high = value_range or (float(np.nanmin(array)), float(np.nanmax(array)))
    scaled = np.nan_to_num((array - low) / max(high - low, 1e-12), nan=0.0).clip(0, 1)
    pixels: Pixels = np.round(scaled * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return pixels


def _on_grid(tiles: Sequence[Pixels], columns: int, titles: Sequence[str]) -> Image:
    from PIL import Image, ImageDraw, ImageFont

    if columns < 1:
        raise ValueError(f"a grid has at least one column, not {columns}")
    height, width, channels = tiles[0].shape
    rows, top = -(-len(tiles) // columns), HEADER if titles else 0
    # A mid grey between the tiles: neither a black nor a white background swallows the edge of an image.
    canvas = np.full(
        (top + rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, max(channels, 3)), 128, np.uint8
    )
    canvas[:top] = 255
    if channels == 4:
        canvas[..., 3] = 255
    for number, tile in enumerate(tiles):
        y, x = top + GAP + (number // columns) * (height + GAP), GAP + (number % columns) * (width + GAP)
        canvas[y : y + height, x : x + width] = tile
    image = Image.fromarray(canvas)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    for column, title in enumerate(titles[:columns]):
        centre = GAP + column * (width + GAP) + width / 2
        draw.text((centre, HEADER / 2), _fit(title, width, font), fill=(40, 40, 40), font=font, anchor="mm")
    return image


def _fit(title: str, width: int, font: Any) -> str:
    """Shorten a title until it is no wider than its column."""
    text = title
    while len(text) > 1 and font.getlength(text) > width:
        text = f"{text.rstrip('…')[:-1]}…"
    return text


def _write(image: Image, path: Path) -> None:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    write_atomically(Path(path), buffer.getvalue())
