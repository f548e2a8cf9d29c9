"""Image files as a pipeline takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from atlas_core.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Return image files: each path itself, or what a folder holds, sorted. Raises UsageError for what is missing."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)
            if not inside:
                raise UsageError(f"{path} holds no image", hint=f"Images end in {', '.join(SUFFIXES)}.")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UsageError(f"there is no file {path}")
    return found


def read_images(paths: Sequence[Path], shape: tuple[int, int, int], value_range: tuple[float, float] | None) -> Tensor:
    """Read images of `shape` (c, h, w) -> float32 (n, c, h, w) in `value_range`.

    Raises UsageError, naming the file, for one that cannot be read and for one of another size: nothing is squashed.
    """
    low, high = value_range or (0.0, 1.0)
    return torch.stack([_bytes(path, shape) for path in paths]).float() / 255 * (high - low) + low


def read_mask(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """Read a mask (1, h, w), true where the picture is bright. Raises UsageError."""
    return _bytes(path, (1, *shape[1:])) >= 128


def _in_mode(image: Image, mode: str, path: Path) -> Image:
    """Convert an image where nothing is lost by it. Raises UsageError where colour, depth or transparency would be."""
    if image.mode == mode:
        return image
    if image.mode in ("1", "L", "P", "RGB") and mode in ("RGB", "RGBA"):
        return image.convert(mode)
    if mode == "L" and (image.mode == "1" or (image.mode == "RGB" and _is_grey(image))):
        return image.convert("L")
    names = {"L": "grey images of 8 bits", "RGB": "colour images of 8 bits", "RGBA": "transparent images of 8 bits"}
    raise UsageError(
        f"{path} is an image of mode {image.mode}; the network draws {names[mode]}",
        hint="Convert it first: what may be lost by it is for you to say.",
    )


def _is_grey(image: Image) -> bool:
    """Whether the three channels say the same, as of grey images that a program saved in colour."""
    red, green, blue = image.split()
    return red.tobytes() == green.tobytes() == blue.tobytes()


def _bytes(path: Path, shape: tuple[int, int, int]) -> Tensor:
    import numpy as np
    import PIL.Image

    channels, height, width = shape
    try:
        with PIL.Image.open(path) as image:
            pixels = np.asarray(_in_mode(image, _MODES[channels], path))
    except (OSError, PIL.UnidentifiedImageError) as error:
        raise UsageError(f"{path} is no image that can be read: {error}") from error
    if pixels.shape[:2] != (height, width):
        raise UsageError(
            f"{path} has {pixels.shape[1]} × {pixels.shape[0]} pixels, not {width} × {height}",
            hint="Crop or scale it first: what part of it counts is for you to say.",
        )
    return torch.from_numpy(pixels.copy()).view(height, width, channels).permute(2, 0, 1)
