"""Brownian paths as functions of a key: W(u) for every clock u ≥ 0, whatever other times are asked for.

The series of Lévy and Ciesielski on each octave of the clock (Kloeden & Platen 1992, §2.4), cut off at a finest
interval: with a = 2^k ≤ u < 2a, θ = u/a − 1 and independent normals z, one for each node of a fixed tree,

    W(u) − W(a) = √a θ z + Σ_l ½ √(a 2^−l) hat(θ_l) z_l + √(a 2^−DEPTH θ' (1 − θ')) z',

l = 0 … DEPTH − 1, where θ_l is the place of u in the interval of width a 2^−l that holds it, hat(θ) = 1 − |2θ − 1|, and
θ' the place in the finest one. Below 2^LOWEST the interval [0, 2^LOWEST) takes the octave's place. So W is one
continuous function; W(u) has variance u, and increments have the law of Brownian motion unless both ends lie in one of
the finest intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from atlas_core.engine.bits import GOLDEN, Floats, Kind, Words, coarse_normals, mix, normals, stream_words

DEPTH = 12
"""Halvings of an octave: the finest interval is 1/8192 to 1/4096 of the times in it."""
LOWEST = -40
"""[0, 2^LOWEST) is one interval, as an octave is."""
_TILE = 1 << 15
"""Words that are made at once: they stay in the processor's cache."""


def increment(keys: Words, purpose: str, u0: float, u1: float, size: int, kind: Kind) -> Floats:
    """Return W(u1) − W(u0) of the paths with these keys: (rows,) -> (rows, size).

    The first numbers of a row are the same whatever the size. Raises ValueError for times that are no clock.
    """
    total = np.zeros((len(keys), size), kind)
    spans, bridges = _series(u0, u1)
    for (nodes, weights), make, share in ((spans, normals, 2), (bridges, coarse_normals, 4)):
        words = -(-size // share)
        if not words or not len(keys):
            continue
        rows = max(1, _TILE // words)
        for first in range(0, len(keys), rows):
            into = total[first : first + rows]
            seeds = _seeds(keys[first : first + rows], purpose, nodes)
            batch = max(1, _TILE // (words * len(into)))
            for node in range(0, len(nodes), batch):
                bits = mix(seeds[node : node + batch, :, None] ^ _counter(words)).reshape(-1, words)
                values = make(bits, kind).reshape(-1, len(into), share * words)[:, :, :size]
                for value, weight in zip(values, weights[node : node + batch], strict=True):
                    into += kind(weight) * value
    return total


def _seeds(keys: Words, purpose: str, nodes: Words) -> Words:
    """Return one word for each node and row: (rows,), (nodes,) -> (nodes, rows)."""
    first, second = (np.uint64(word) for word in stream_words(f"brownian {purpose}"))
    return mix(mix(nodes * GOLDEN + first)[:, None] ^ mix(keys + second)[None, :])


@lru_cache(maxsize=8)
def _counter(count: int) -> Words:
    counter = mix(np.arange(1, count + 1, dtype=np.uint64) * GOLDEN)
    counter.flags.writeable = False
    return counter


Weighted = tuple[Words, NDArray[np.float64]]


@lru_cache(maxsize=1024)
def _series(u0: float, u1: float) -> tuple[Weighted, Weighted]:
    """Return the nodes and weights of W(u1) − W(u0): those of whole intervals, and those of bridges inside them."""
    weights: dict[int, float] = {}
    for u, sign in ((u1, 1.0), (u0, -1.0)):
        for node, weight in _inside(u):
            weights[node] = weights.get(node, 0.0) + sign * weight
    start, end = _interval(u0)[0], _interval(u1)[0]
    for slot in range(min(start, end), max(start, end)):
        node, weight = slot << (DEPTH + 1), math.sqrt(2.0 ** (LOWEST + max(slot - 1, 0)))
        weights[node] = weights.get(node, 0.0) + math.copysign(weight, end - start)
    whole: list[tuple[int, float]] = []
    bridges: list[tuple[int, float]] = []
    for node, weight in weights.items():
        if weight:
            (bridges if node % (1 << (DEPTH + 1)) else whole).append((node, weight))
    return _columns(whole), _columns(bridges)


def _columns(pairs: list[tuple[int, float]]) -> Weighted:
    return np.array([n for n, _ in pairs], dtype=np.uint64), np.array([w for _, w in pairs], dtype=np.float64)


def _interval(u: float) -> tuple[int, float, float]:
    """Return the number of the interval that holds u, its width, and the place of u in it, in [0, 1)."""
    if not 0 <= u < math.inf:  # also false for NaN
        raise ValueError(f"the clock of a Brownian path is finite and at least 0, not {u!r}")
    mantissa, exponent = math.frexp(u)  # u = mantissa · 2^exponent, mantissa in [½, 1)
    if u < 2.0**LOWEST:
        return 0, 2.0**LOWEST, u * 2.0**-LOWEST
    return exponent - LOWEST, 2.0 ** (exponent - 1), 2 * mantissa - 1


def _inside(u: float) -> Iterator[tuple[int, float]]:
    """Yield the nodes and weights of W(u) minus W at the left end of the interval that holds u."""
    slot, width, place = _interval(u)
    first = slot << (DEPTH + 1)  # node 0 of an interval is the whole, 1 its midpoint, 2 and 3 those of its halves, …
    yield first, math.sqrt(width) * place
    index = 1
    for _ in range(DEPTH):
        if place == 0:  # u is a node of the tree: nothing finer bears on it
            return
        yield first + index, math.sqrt(width) / 2 * (1 - abs(2 * place - 1))
        right = place >= 0.5
        index, width, place = 2 * index + right, width / 2, 2 * place - right
    if place:
        yield first + index, math.sqrt(width * place * (1 - place))
