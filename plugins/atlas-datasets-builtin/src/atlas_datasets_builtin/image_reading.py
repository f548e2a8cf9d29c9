"""From an image file of any kind to a square of bytes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Modes of PIL that hold 16-bit grey; `I` is what older releases of Pillow open such a PNG as."""


def read_square(path: Path, size: int, channels: int) -> Tensor:
    """Return the image as (channels, size, size), uint8: shorter side resized to `size`, then the centre cropped.

    The EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled. Raises what Pillow raises for
    a file that it cannot decode, and ValueError for float pixels, whose range is not known.
    """
    from torchvision.transforms.v2 import InterpolationMode, functional  # takes longer to import than all of the rest

    with Image.open(path) as file:
        image = _upright(file, channels)
    width, height = image.size
    if max(width, height) > 4 * min(width, height):  # a long strip would be scaled up to gigabytes, and cropped
        image = ImageOps.fit(image, (min(width, 4 * height), min(height, 4 * width)))
    resized = functional.resize(image, [size], interpolation=InterpolationMode.BICUBIC, antialias=True)
    pixels: Tensor = functional.pil_to_tensor(functional.center_crop(resized, [size])).contiguous()
    return pixels


def as_png(image: Tensor) -> bytes:
    """Return an image (1 or 3, h, w) in [−1, 1], clamped, as a PNG file of 8 bits a channel."""
    pixels = ((image.detach().cpu().double().clamp(-1, 1) + 1) * 127.5).round().numpy().astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(out, format="PNG")
    return out.getvalue()


def check(path: Path) -> str:
    """Decode the whole file once and return what is wrong with it, or an empty string."""
    try:
        with Image.open(path) as file:
            file.draft("L", (8, 8))  # a JPEG is read to its end, but only an eighth of it is reconstructed
            _upright(file, 1)
    except Exception as error:  # noqa: BLE001 - decoders raise anything from SyntaxError to struct.error; all is reported
        # The messages of Pillow and of the system end in the path, which the problem names anyway.
        reason = str(error).replace(repr(str(path)), "").rstrip(" :")
        return f"{type(error).__name__}: {reason}"
    return ""


def _upright(file: Image.Image, channels: int) -> Image.Image:
    """Return the first frame as the camera held it, in mode L or RGB."""
    mode = "L" if channels == 1 else "RGB"
    file.load()
    if file.mode == "F":
        raise ValueError("float pixels have no known range")
    image = ImageOps.exif_transpose(file)
    if image.mode in SIXTEEN_BIT:
        deep = np.asarray(image, dtype=np.float64)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("32-bit integer pixels have no known range")
        image = Image.fromarray((deep / 257).round().astype(np.uint8))  # 65535 = 255 · 257
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
