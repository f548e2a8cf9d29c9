"""Random bits, and the numbers that are made of them; numpy, not torch, whose threads cost more than they save here."""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Floats = NDArray[np.floating[Any]]
Kind = type[np.floating[Any]]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(z: Words) -> Words:
    """Scramble 64-bit words one to one (Stafford 2011, variant 13, as in SplitMix64)."""
    z = z ^ (z >> np.uint64(30))
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


@lru_cache(maxsize=256)
def stream_words(stream: str) -> tuple[int, int]:
    """Return the two words by which streams of different names are kept apart."""
    digest = hashlib.blake2b(stream.encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def normals(words: Words, kind: Kind) -> Floats:
    """Return two normals a word by Box & Muller 1958: (rows, count) -> (rows, 2 · count); |z| ≤ 6.8."""
    halves = words.view(np.uint32).reshape(-1, 2)  # the low half first on every machine that torch runs on
    # (w + ½) / 2³² is above 0 and at most 1: the logarithm is finite, and the root real.
    uniform = halves.astype(kind)
    uniform += kind(0.5)
    uniform *= kind(2.0**-32)
    radius, angle = np.log(uniform[:, 0]), uniform[:, 1] * kind(2 * math.pi)
    radius *= kind(-2)
    np.sqrt(radius, out=radius)
    pairs = uniform  # its numbers have been read
    np.multiply(radius, np.cos(angle), out=pairs[:, 0])
    np.multiply(radius, np.sin(angle), out=pairs[:, 1])
    return pairs.reshape(len(words), -1)


def coarse_normals(words: Words, kind: Kind) -> Floats:
    """Return four normals a word, a tenth of the price: (…, count) -> (…, 4 · count); one of 65,536 values each.

    Their distribution function is within 2⁻¹⁷ of Φ, their variance 1, |z| ≤ 4.4: for sums of several.
    """
    return _quantiles(np.dtype(kind)).take(words.view(np.uint16))


@lru_cache(maxsize=2)
def _quantiles(dtype: np.dtype[Any]) -> Floats:
    share = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
    values = torch.special.ndtri(share)
    values = (values - values.flip(0)) / 2  # odd to the last bit
    table: Floats = (values / values.square().mean().sqrt()).numpy().astype(dtype)
    return table
