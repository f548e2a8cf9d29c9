"""Decide which example comes when, as a pure function: resumed runs and N ranks see what one run would have seen."""

from __future__ import annotations

import functools
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from atlas_core.engine.training.keys import key

Rows = npt.NDArray[np.int64]


@attrs.frozen
class Order:
    """The data as one endless stream of shuffled epochs, cut into global batches.

    Position p of the stream holds example π_e(p mod n) with e = p div n, and the permutation π_e depends on (seed, e)
    alone. Batch k is the positions [k B, (k + 1) B): no example is left out at the end of an epoch.
    """

    count: int = attrs.field(validator=attrs.validators.ge(1))
    """n, examples of the split."""
    batch: int = attrs.field(validator=attrs.validators.ge(1))
    """B, over all ranks and micro-batches."""
    seed: int

    def positions(self, step: int) -> Rows:
        """Return the global sample indices (B,) of batch `step`: the keys of their random draws."""
        return np.arange(step * self.batch, (step + 1) * self.batch, dtype=np.int64)

    def examples(self, step: int) -> Rows:
        """Return the examples (B,) of batch `step`, positions of the split."""
        epochs, within = np.divmod(self.positions(step), self.count)
        first, last = int(epochs[0]), int(epochs[-1])
        if first == last:
            return permutation(self.count, self.seed, first)[within]
        parts = [permutation(self.count, self.seed, e)[within[epochs == e]] for e in range(first, last + 1)]
        return np.concatenate(parts)

    def share(self, part: int, parts: int) -> slice:
        """Return the rows of a batch that rank `part` of `parts` takes; sizes differ by at most 1."""
        return slice(self.batch * part // parts, self.batch * (part + 1) // parts)


@functools.lru_cache(maxsize=4)
def permutation(count: int, seed: int, epoch: int) -> Rows:
    """Return the order (count,) of one epoch; the same on every machine and with every version of numpy.

    Rows are sorted by SplitMix64 (Steele, Lea & Flood 2014) of their number, started at a key of (seed, epoch).
    """
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state += np.uint64(key(seed, "order", epoch))
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    order: Any = np.argsort(state ^ (state >> np.uint64(31)), kind="stable")
    order.setflags(write=False)  # it is shared by all who ask
    return order  # type: ignore[no-any-return]
