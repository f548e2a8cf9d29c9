"""Random bits as a pure function of (counter, key): Philox4x32-10, for whole arrays at once.

Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3". The known answers of their Random123
library are in the tests.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
"""32-bit words, each in a 64-bit lane, where the product of two of them fits."""

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox4x32(counter: Words, key: Words) -> Words:
    """Return the four words of each counter under its key: (4, *shape), (2, *shape or broadcast) -> (4, *shape)."""
    column = (2, *[1] * (counter.ndim - 1))
    multipliers = np.array(_MULTIPLIERS, dtype=np.uint64).reshape(column)
    rounds = np.arange(_ROUNDS, dtype=np.uint64).reshape(-1, *[1] * counter.ndim)
    schedule = (key + rounds * np.array(_WEYL, dtype=np.uint64).reshape(column)) & LOW
    # Words 0 and 2 are multiplied, words 1 and 3 are not: two arrays of pairs, and half as many operations as words.
    even, odd = counter[0::2].copy(), counter[1::2].copy()
    high = np.empty_like(even)
    for round_key in schedule:
        even *= multipliers
        odd ^= round_key
        np.right_shift(even, HALF, out=high)
        odd ^= high[::-1]
        even &= LOW
        even, odd = odd, even[::-1]
    out = np.empty_like(counter)
    out[0::2], out[1::2] = even, odd
    return out
