"""Noise that belongs to the sample, not to the batch: every number is a function of (key of the row, purpose, step).

A generator that is shared by a batch makes image 0 depend on how many images are drawn with it, and makes a resumed run
differ from an uninterrupted one unless its state is saved. Here nothing has a state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlas_core.engine import brownian
from atlas_core.engine.bits import GOLDEN, Floats, Kind, Words, mix, normals, stream_words

_FRESH = {name: value for name, value in np.random.Philox(key=0).state.items() if name != "state"}
"""What numpy keeps beside counter and key, with nothing drawn yet."""


class CounterNoise:
    """Counter-based random numbers, one independent stream a row (`atlas_core.contracts.NoiseSource`).

    Bits are numpy's Philox4x64-10 (Salmon, Moraes, Dror & Shaw 2011): the key of row i is `keys[i]`; the counter is
    (block, step, hash of purpose and distribution). The first numbers of a row are the same whatever the item's size,
    and bits are drawn on the CPU, so that a device changes nothing. Normals are Box & Muller 1958 in float64, or in
    float32 for anything narrower; |z| ≤ 6.8.
    """

    def __init__(self, keys: Tensor) -> None:
        """`keys`: (rows,), int64. Rows with one key have the same noise."""
        if keys.ndim != 1 or keys.dtype != torch.int64:
            raise ValueError(f"keys must be (rows,) of int64, not {tuple(keys.shape)} of {keys.dtype}")
        self._keys = keys.cpu()
        self._words_of_keys = self._keys.numpy().view(np.uint64).tolist()
        self._philox = np.random.Philox(key=0)  # its state is set before each draw
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
        return cls(torch.from_numpy(mix(mix(seed + GOLDEN) + rows * GOLDEN).view(np.int64)))

    def select(self, rows: Tensor) -> CounterNoise:
        """Return the source of these rows (r,), int64; they may repeat."""
        return CounterNoise(self._keys[rows.cpu()])

    def normal(self, purpose: str, step: int, like: Tensor) -> Tensor:
        """N(0, 1) of the shape, dtype and device of `like` (rows, *item). Raises ValueError for another row count."""
        size = self._size(like)
        words = self._words(f"normal {purpose}", step, -(-size // 2))
        return _as(normals(words, _kind(like))[:, :size], like)

    def brownian(self, purpose: str, u0: float, u1: float, like: Tensor) -> Tensor:
        """W(u1) − W(u0), W(0) = 0: a Brownian path a number, in the shape, dtype and device of `like` (rows, *item).

        W is a function of the row's key, the purpose and u alone (`atlas_core.engine.brownian`): increments add up, to
        rounding, however the clock is cut. Bits are SplitMix64's mixer of key, node and place (Steele, Lea & Flood
        2014). About 0.1 µs a number. Times that differ by less than one part in 8192 may see a smooth path between
        them. Raises ValueError for another row count, and for times that are negative or not finite.
        """
        keys = self._keys.numpy().view(np.uint64)
        return _as(brownian.increment(keys, purpose, float(u0), float(u1), self._size(like), _kind(like)), like)

    def uniform(self, purpose: str, step: int, shape: tuple[int, ...] = ()) -> Tensor:
        """(rows, *shape), float64 on the CPU, in [0, 1)."""
        words = self._words(f"uniform {purpose}", step, math.prod(shape))
        return torch.from_numpy((words >> np.uint64(11)) * 2.0**-53).view(self.rows, *shape)

    def _size(self, like: Tensor) -> int:
        if like.shape[:1] != (self.rows,):
            raise ValueError(f"noise for {self.rows} rows was asked for a tensor of shape {tuple(like.shape)}")
        return math.prod(like.shape[1:])

    def _words(self, stream: str, step: int, count: int) -> Words:
        """Return (rows, count) words of 64 random bits: Philox of the key of each row, from the stream's counter on."""
        if not 0 <= step < 2**32:
            raise ValueError(f"a step is at least 0 and below 2**32, not {step}")
        # Word 0 of the counter counts the blocks of a row; the others keep steps and streams apart.
        key = np.zeros(2, dtype=np.uint64)
        counter = np.array([0, step, *stream_words(stream)], dtype=np.uint64)
        state: Any = {**_FRESH, "state": {"counter": counter, "key": key}}
        words = np.empty((self.rows, count), dtype=np.uint64)
        for row, key[0] in enumerate(self._words_of_keys):
            self._philox.state = state
            words[row] = self._philox.random_raw(count)
        return words


def _kind(like: Tensor) -> Kind:
    return np.float64 if like.dtype == torch.float64 else np.float32


def _as(values: Floats, like: Tensor) -> Tensor:
    return torch.from_numpy(values.reshape(like.shape)).to(device=like.device, dtype=like.dtype)
