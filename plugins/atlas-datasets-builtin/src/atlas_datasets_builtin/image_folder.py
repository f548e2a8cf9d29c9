"""Any folder of images, with or without a sub-folder for each class."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import DataSpec, Example, NoiseSource
from atlas_core.errors import DataError, Problem
from atlas_datasets_builtin.image_reading import as_png, read_square
from atlas_datasets_builtin.image_scan import SHOWN, Scan, scan
from atlas_datasets_builtin.paths import absolute
from atlas_datasets_builtin.splits import pick

CACHED_BYTES = 2**28
"""Decoded images that a split keeps in memory: all of a small folder, the first of a large one."""
STD_SAMPLE = 1000
"""Training images that `spec.std` is estimated from."""


@attrs.frozen(eq=False)
class ImageSplit:
    """A map-style split that decodes a file when it is asked for it."""

    root: Path
    files: tuple[str, ...]
    labels: tuple[int, ...] | None
    size: int
    channels: int
    _cache: dict[int, Tensor] = attrs.field(factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        position = range(len(self))[index]
        label = None if self.labels is None else self.labels[position]
        return Example(self.pixels(position).float() / 127.5 - 1, label, position)

    def pixels(self, position: int) -> Tensor:
        """(c, h, w), uint8. Raises DataError for a file that was readable when the folder was scanned."""
        if position in self._cache:
            return self._cache[position]
        path = self.root / self.files[position]
        try:
            square = read_square(path, self.size, self.channels)
        except Exception as error:
            message = (
                f"{path} could be read when the folder was scanned, and cannot now: {type(error).__name__}: {error}"
            )
            raise DataError(message, hint="start again: the scan will name the file and leave it out") from error
        if (len(self._cache) + 1) * square.numel() <= CACHED_BYTES:
            self._cache[position] = square
        return square


@attrs.frozen
class ImageFolder:
    """Train on your own images: any folder, searched to its depths, in any format that Pillow reads.

    Shorter side resized (bicubic, antialiased) to `size`, then the centre cropped; values in [−1, 1]. Two or more
    sub-folders that hold all the images are classes. Every file is decoded once before training starts, in threads, and
    the verdict is kept in the user's cache (ATLAS_CACHE_DIR); a file that fails is left out and named by `skipped`.

    A file is in `test` if the hash of its relative path is among the lowest `test_fraction` of its class: the split
    depends on nothing but names, and a file that is added moves at most one other. `spec.std` is estimated from 1000
    training images, chosen by hash as well. Raises DataError for a folder that is missing, empty or all corrupt.
    """

    opens = ("/",)

    root: str = attrs.field(converter=absolute, metadata={"help": "Folder with the images; it is only read."})
    size: int = attrs.field(
        default=64, validator=attrs.validators.gt(0), metadata={"help": "Side of the square that images are cut to."}
    )
    channels: int = attrs.field(
        default=3, validator=attrs.validators.in_((1, 3)), metadata={"help": "3: colour; 1: grey."}
    )
    flip: bool = attrs.field(
        default=False, metadata={"help": "Mirror half of the training images, left to right, anew at every step."}
    )
    test_fraction: float = attrs.field(
        default=0.1,
        validator=[attrs.validators.ge(0), attrs.validators.lt(1)],
        metadata={"help": "Share of each class that is held out as `test`; 0: there is no such split."},
    )

    @classmethod
    def opening(cls, path: str) -> Mapping[str, Any]:
        """Return the settings with which a transport opens a folder: all images take part."""
        return {"root": path, "test_fraction": 0.0}

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "test") if self.test_fraction > 0 else ("train",)

    @property
    def _root(self) -> Path:
        return Path(self.root)

    @cached_property
    def _scan(self) -> Scan:
        found = scan(self._root)
        if self.test_fraction > 0 and len(found.files) == 1:
            raise DataError(
                f"{self.root} holds 1 image that can be read; with test_fraction = {self.test_fraction} at least 2 are "
                "needed, one to train on and one to hold out",
                problems=found.problems[:SHOWN],
                hint="add images, or set data.test_fraction=0 to train on it alone",
            )
        return found

    @cached_property
    def _classes(self) -> tuple[str, ...]:
        folders = {name.partition("/")[0] if "/" in name else "" for name in self._scan.files}
        return tuple(sorted(folders)) if len(folders) > 1 and "" not in folders else ()

    @cached_property
    def _splits(self) -> dict[str, ImageSplit]:
        held_out = self._held_out()
        parts = {"train": [name for name in self._scan.files if name not in held_out], "test": sorted(held_out)}
        return {name: self._part(parts[name]) for name in self.splits}

    def _part(self, files: Sequence[str]) -> ImageSplit:
        labels = tuple(self._classes.index(name.partition("/")[0]) for name in files) if self._classes else None
        return ImageSplit(self._root, tuple(files), labels, self.size, self.channels)

    def _held_out(self) -> set[str]:
        groups: dict[str, list[str]] = {}
        for name in self._scan.files:
            groups.setdefault(name.partition("/")[0] if self._classes else "", []).append(name)
        held_out: set[str] = set()
        for names in groups.values():
            count = min(int(self.test_fraction * len(names) + 0.5), len(names) - 1)
            held_out.update(sorted(names, key=_hash)[:count])
        if not held_out and self.test_fraction > 0:  # classes too small for a share: one image stands for all
            largest = max(groups.values(), key=len)
            held_out.update(sorted(largest, key=_hash)[: min(1, len(self._scan.files) - 1)])
        return held_out

    @cached_property
    def spec(self) -> DataSpec:
        shape = (self.channels, self.size, self.size)
        return DataSpec(shape=shape, classes=self._classes, std=self._std(), levels=256)

    def _std(self) -> float:
        train = self._splits["train"]
        sample = sorted(range(len(train)), key=lambda i: _hash("std:" + train.files[i]))[:STD_SAMPLE]
        with ThreadPoolExecutor() as pool:
            squares = pool.map(lambda position: train.pixels(position).double(), sample)
            sums = [(float(square.sum()), float(square.square().sum())) for square in squares]
        values = len(sums) * self.channels * self.size**2
        mean, mean_square = sum(first for first, _ in sums) / values, sum(second for _, second in sums) / values
        # Images all of one colour have no spread; a network's σ_data has to be positive.
        return max(math.sqrt(max(mean_square - mean**2, 0.0)) / 127.5, 1e-3)

    def split(self, name: str) -> ImageSplit:
        return pick(self._splits, name)

    def augment(self, x: Tensor, noise: NoiseSource, step: int) -> Tensor:
        """Mirror the rows that the keyed noise picks, (b, c, h, w) -> (b, c, h, w); without `flip`, return x."""
        if not self.flip:
            return x
        mirrored = noise.uniform("flip", step).to(x.device) < 0.5
        return torch.where(mirrored[:, None, None, None], x.flip(-1), x)

    def encode(self, x: Tensor, name: str) -> Iterator[tuple[str, bytes]]:
        """Yield (path, content) of a PNG for each image x (n, c, h, w), in [−1, 1]: `name`/ as the training files."""
        files = self._splits["train"].files
        endings = Counter(Path(file).with_suffix("") for file in files)
        for image, file in zip(x, files, strict=True):
            # a.jpg and a.png of one folder must not become one file.
            short = Path(file).with_suffix("" if endings[Path(file).with_suffix("")] == 1 else Path(file).suffix)
            yield f"{name}/{short.as_posix()}.png", as_png(image)

    def skipped(self) -> tuple[Problem, ...]:
        """Return the files that cannot be read, each with the reason."""
        return self._scan.problems


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
