"""One pass over the tiles of K: the products, sums and log-sums that streaming is made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from atlas_kernels_builtin.exact.blocks import Exponents
from atlas_kernels_builtin.exact.tiles import Tile

LN_2 = math.log(2)


def walk(tiles: Sequence[Tile], like: Tensor) -> Iterator[tuple[Tile, Tensor]]:
    """Yield each tile with room for it: one buffer for all, since fresh memory costs more than the arithmetic."""
    buffer = like.new_empty(max(math.prod(tile.shape) for tile in tiles))
    for tile in tiles:
        yield tile, buffer[: math.prod(tile.shape)].view(tile.shape)


def product(exponents: Exponents, tiles: Sequence[Tile], vectors: Tensor, *, transpose: bool = False) -> Tensor:
    """exp(exponents) @ vectors, or its transpose: (b, m, k) -> (b, n, k) or (b, n, k) -> (b, m, k)."""
    points = exponents.blocks.points
    size = (points.y if transpose else points.x).shape[1]
    out = vectors.new_zeros(vectors.shape[0], size, vectors.shape[2])
    for tile, buffer in walk(tiles, vectors):
        block = exponents.entries(tile, buffer)
        rows, columns = (tile.columns, tile.rows) if transpose else (tile.rows, tile.columns)
        accumulate(out[tile.batch, rows], block.mT if transpose else block, vectors[tile.batch, columns])
    return out


def accumulate(out: Tensor, block: Tensor, vectors: Tensor) -> None:
    """out += block @ vectors: (p, r, k), (p, r, c), (p, c, k)."""
    if block.shape[0] > 1:
        out.baddbmm_(block, vectors)
    elif vectors.shape[2] == 1:
        out[0, :, 0].addmv_(block[0], vectors[0, :, 0])
    else:
        out[0].addmm_(block[0], vectors[0])


def gram(exponents: Exponents, tiles: Sequence[Tile], vector: Tensor, weights: Tensor) -> Tensor:
    """Eᵀ diag(weights) E vector of E = exp(exponents): (b, m), (b, n) -> (b, m).

    What is made of a band of rows, tile by tile, is kept until both products have used it: no entry is made twice.
    """
    out, size = torch.zeros_like(vector)[..., None], vector.shape[1]
    bands = [list(band) for _, band in groupby(tiles, key=lambda tile: (tile.batch.start, tile.rows.start))]
    room = vector.new_empty(max(math.prod(band[0].shape[:2]) for band in bands) * size)
    for band in bands:
        problems, rows, _ = band[0].shape
        entries = room[: problems * rows * size].view(problems, rows, size)
        middle = vector.new_zeros(problems, rows, 1)
        for tile in band:
            block = exponents.entries(tile, entries[:, :, tile.columns])
            accumulate(middle, block, vector[tile.batch, tile.columns, None])
        middle.mul_(weights[band[0].batch, band[0].rows, None])
        accumulate(out[band[0].batch], entries.mT, middle)
    return out[..., 0]


def sums(exponents: Exponents, tiles: Sequence[Tile], like: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column sums of exp(exponents) in one pass, (b, n), (b, m), added up in the dtype of `like`."""
    points = exponents.blocks.points
    rows, columns = (like.new_zeros(p.shape[:2]) for p in (points.x, points.y))
    for tile, buffer in walk(tiles, exponents.like):
        block = exponents.entries(tile, buffer)
        rows[tile.batch, tile.rows] += block.sum(-1)
        columns[tile.batch, tile.columns] += block.sum(-2)
    return rows, columns


def log_sum(exponents: Exponents, tiles: Sequence[Tile], *, over_rows: bool = False) -> Tensor:
    """log Σ_j exp(exponents_ij), (b, n), or over rows i, (b, m); sums are rescaled when a larger exponent is met."""
    like = exponents.like
    points = exponents.blocks.points
    dim = -2 if over_rows else -1
    size = (points.y if over_rows else points.x).shape[:2]
    largest, total = like.new_full(size, -math.inf), like.new_zeros(size)
    for tile, buffer in walk(tiles, like):
        block = exponents.fill(tile, buffer)
        part = (tile.batch, tile.columns if over_rows else tile.rows)
        found = torch.maximum(largest[part], block.amax(dim))
        shift = found.where(found != -math.inf, 0.0)  # −inf everywhere so far: −inf − (−inf) is not a number
        here = block.sub_(shift.unsqueeze(dim)).exp2_().sum(dim)
        total[part] = total[part] * (largest[part] - shift).exp2_() + here
        largest[part] = found
    return (largest + total.log2_()).mul_(LN_2)


def cost(plain: Exponents, scaled: Exponents, tiles: Sequence[Tile], like: Tensor) -> Tensor:
    """Σ_ij exp(scaled_ij) (−plain_ij) ln 2, (b,): of exponents without and with their scaling."""
    out = like.new_zeros(like.shape[0])
    other = like.new_empty(max(math.prod(tile.shape) for tile in tiles))
    for tile, buffer in walk(tiles, like):
        logs = plain.fill(tile, other[: math.prod(tile.shape)].view(tile.shape))
        # A pair of infinite cost has weight 0, and 0 · ∞ is meant to be 0.
        logs.clamp_(min=torch.finfo(logs.dtype).min)
        out[tile.batch] -= scaled.entries(tile, buffer).mul_(logs).sum((-1, -2))
    return out.mul_(LN_2)
