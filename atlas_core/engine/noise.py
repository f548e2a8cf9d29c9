"""Noise that belongs to the sample, not to the batch: every number is a function of (key of the row, purpose, step).

A generator that is shared by a batch makes image 0 depend on how many images are drawn with it, and makes a resumed run
differ from an uninterrupted one unless its state is saved. Here nothing has a state.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atlas_core.engine.philox import HALF, LOW, Words, philox4x32

Floats = NDArray[np.floating[Any]]

_TILE = 1 << 13
"""Counters worked on at once: their words stay in the processor's cache."""


class CounterNoise:
    """Counter-based random numbers, one independent stream a row (`atlas_core.contracts.NoiseSource`).

    The Philox key of row i is `keys[i]`; the counter is (block, step, hash of purpose and distribution). The first
    numbers of a row are the same whatever the item's size, and bits are drawn on the CPU, so that a device changes
    nothing. Normals are Box & Muller 1958 in float64, or in float32 for anything narrower; |z| ≤ 6.8.
    """

    def __init__(self, keys: Tensor) -> None:
        """`keys`: (rows,), int64. Rows with one key have the same noise."""
        if keys.ndim != 1 or keys.dtype != torch.int64:
            raise ValueError(f"keys must be (rows,) of int64, not {tuple(keys.shape)} of {keys.dtype}")
        self._keys = keys.cpu()
        words = self._keys.numpy().view(np.uint64)[:, None]
        self._words_of_keys = np.stack([words & LOW, words >> HALF])
        self.rows = len(keys)

    @classmethod
    def from_seeds(cls, seeds: Sequence[int]) -> CounterNoise:
        """Noise of sampling: row i belongs to the sample with seed `seeds[i]`, 0 ≤ seed < 2⁶³."""
        for seed in seeds:
            if not 0 <= seed < 2**63:
                raise ValueError(f"a seed is at least 0 and below 2**63, not {seed}")
        return cls(torch.tensor(list(seeds), dtype=torch.int64))

    @classmethod
    def for_training(cls, run_seed: int, index: Tensor) -> CounterNoise:
        """Noise of training: row i belongs to the sample with global index `index[i]` (rows,) in the run `run_seed`.

        Two indices never share a key, and neither do they with the small keys of `from_seeds`, but for chance.
        """
        seed = np.array([run_seed % 2**64], dtype=np.uint64)
        rows = index.cpu().to(torch.int64).numpy().view(np.uint64)
        return cls(torch.from_numpy(_mix(_mix(seed + _GOLDEN) + rows * _GOLDEN).view(np.int64)))

    def select(self, rows: Tensor) -> CounterNoise:
        """Return the source of these rows (r,), int64; they may repeat."""
        return CounterNoise(self._keys[rows.cpu()])

    def normal(self, purpose: str, step: int, like: Tensor) -> Tensor:
        """N(0, 1) of the shape, dtype and device of `like` (rows, *item). Raises ValueError for another row count."""
        if like.shape[:1] != (self.rows,):
            raise ValueError(f"noise for {self.rows} rows was asked for a tensor of shape {tuple(like.shape)}")
        wide = like.dtype == torch.float64
        size = math.prod(like.shape[1:])
        values = self._draw(f"normal {purpose}", step, size, 4, _normals, np.float64 if wide else np.float32)
        return torch.from_numpy(values).view(like.shape).to(device=like.device, dtype=like.dtype)

    def uniform(self, purpose: str, step: int, shape: tuple[int, ...] = ()) -> Tensor:
        """(rows, *shape), float64 on the CPU, in [0, 1)."""
        values = self._draw(f"uniform {purpose}", step, math.prod(shape), 2, _uniforms, np.float64)
        return torch.from_numpy(values).view(self.rows, *shape)

    def _draw(
        self,
        stream: str,
        step: int,
        size: int,
        per_block: int,
        transform: Callable[[Words, Floats], None],
        dtype: type[np.floating[Any]],
    ) -> Floats:
        """Return (rows, size) numbers, of which `transform` makes `per_block` from each block of four words."""
        if not 0 <= step < 2**32:
            raise ValueError(f"a step is at least 0 and below 2**32, not {step}")
        blocks = -(-size // per_block)
        values = np.empty((self.rows, blocks, per_block), dtype=dtype)
        for rows, columns, words in self._words(stream, step, blocks):
            transform(words, values[rows, columns])
        return np.ascontiguousarray(values.reshape(self.rows, blocks * per_block)[:, :size])

    def _words(self, stream: str, step: int, blocks: int) -> Iterator[tuple[slice, slice, Words]]:
        """Yield the words (4, r, c) of tiles of the (rows, blocks) counters."""
        width = min(max(blocks, 1), _TILE)
        height = _TILE // width
        for top in range(0, self.rows, height):
            key = self._words_of_keys[:, top : top + height]
            for left in range(0, blocks, width):
                block = np.arange(left, min(left + width, blocks), dtype=np.uint64)
                counter = np.empty((4, key.shape[1], len(block)), dtype=np.uint64)
                counter[0] = block
                counter[1] = step
                counter[2], counter[3] = _stream_words(stream)
                rows, columns = slice(top, top + height), slice(left, left + width)
                yield rows, columns, philox4x32(counter, key)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: Words) -> Words:
    """Scramble 64-bit words one to one (Stafford 2011, variant 13, as in SplitMix64)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@lru_cache(maxsize=256)
def _stream_words(stream: str) -> tuple[int, int]:
    digest = hashlib.blake2b(stream.encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def _normals(words: Words, out: Floats) -> None:
    # numpy, not torch: torch's threads cost more than they save on arrays of this size, and stall on a busy machine.
    # In the precision that is asked for: in float32 the functions below are three times as fast.
    kind = out.dtype.type
    first, second = words[0::2].astype(kind), words[1::2].astype(kind)
    # (w + ½) / 2³² is above 0 and at most 1: the logarithm is finite, and the root real.
    radius = np.sqrt(kind(-2) * np.log((first + kind(0.5)) * kind(2.0**-32)))
    angle = (second + kind(0.5)) * kind(2 * math.pi * 2.0**-32)
    pairs = np.moveaxis(out, -1, 0)
    pairs[0::2] = radius * np.cos(angle)
    pairs[1::2] = radius * np.sin(angle)


def _uniforms(words: Words, out: Floats) -> None:
    high, low = words[0::2] >> np.uint64(5), words[1::2] >> np.uint64(6)
    np.copyto(np.moveaxis(out, -1, 0), (high * 2.0**26 + low) * 2.0**-53)
