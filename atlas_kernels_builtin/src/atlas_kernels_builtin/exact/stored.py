"""Entries of a scaled kernel in memory, dense or sparse, with their exact sums: built once, multiplied with often."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Protocol

import attrs
import torch
from torch import Tensor

from atlas_kernels_builtin.exact import passes
from atlas_kernels_builtin.exact.blocks import Exponents
from atlas_kernels_builtin.exact.tiles import Tile
from atlas_kernels_builtin.exact.tiles import tiles as cut

PROBES = 64
"""Rows that the share of entries worth keeping is estimated on, and a sixteenth of the columns."""
SPARSE_BELOW = 0.12
"""Share of entries below which they are stored sparsely: a product then costs its share, and building pays off."""
BAND_BYTES = 2**22
"""Rows that are multiplied with twice at a time: few enough to stay in the caches."""
GIVE_UP_ABOVE = 0.25
"""Share at which a sparse build that the probes misjudged is abandoned: it would need more memory than a dense one."""


class Matrix(Protocol):
    """What the entries are multiplied through; vectors (b, m, k) and (b, n, k) in the storage dtype."""

    def product(self, vectors: Tensor) -> Tensor: ...

    def transposed_product(self, vectors: Tensor) -> Tensor: ...

    def transposed_product_of_squares(self, vectors: Tensor) -> Tensor: ...

    def gram(self, vector: Tensor, weights: Tensor) -> Tensor:
        """Eᵀ diag(weights) E vector: (b, m, 1), (b, n, 1) -> (b, m, 1)."""
        ...


@attrs.frozen(eq=False)
class Stored:
    """A matrix, and the sums of its rows (b, n) and columns (b, m) as they were before rounding to the storage."""

    matrix: DenseMatrix | SparseMatrix
    rows: Tensor
    columns: Tensor


@attrs.frozen(eq=False)
class DenseMatrix:
    """All entries, (b, n, m)."""

    entries: Tensor

    def product(self, vectors: Tensor) -> Tensor:
        return multiply(self.entries, vectors)

    def transposed_product(self, vectors: Tensor) -> Tensor:
        return multiply(self.entries.mT, vectors)

    def transposed_product_of_squares(self, vectors: Tensor) -> Tensor:
        b, n, m = self.entries.shape
        out = vectors.new_zeros(b, m, vectors.shape[2])
        rows = max(1, 2**20 // m)
        squares = self.entries.new_empty(1, min(rows, n), m)
        for problem in range(b):
            for start in range(0, n, rows):
                part = self.entries[problem : problem + 1, start : start + rows]
                block = torch.square(part, out=squares[:, : part.shape[1]])
                passes.accumulate(
                    out[problem : problem + 1], block.mT, vectors[problem : problem + 1, start : start + rows]
                )
        return out

    def gram(self, vector: Tensor, weights: Tensor) -> Tensor:
        out = torch.zeros_like(vector)
        rows = max(1, BAND_BYTES // (self.entries.shape[2] * self.entries.itemsize))
        for block, weight in zip(torch.split(self.entries, rows, 1), torch.split(weights, rows, 1), strict=True):
            # The second product finds the band in the caches.
            passes.accumulate(out, block.mT, multiply(block, vector).mul_(weight))
        return out


@attrs.frozen(eq=False)
class SparseMatrix:
    """The entries of one problem that matter, by rows and again by columns: a transposed product costs no more."""

    by_rows: Tensor
    by_columns: Tensor

    def product(self, vectors: Tensor) -> Tensor:
        return _sparse_product(self.by_rows, vectors)

    def transposed_product(self, vectors: Tensor) -> Tensor:
        return _sparse_product(self.by_columns, vectors)

    def transposed_product_of_squares(self, vectors: Tensor) -> Tensor:
        matrix = self.by_columns
        squares = compressed(matrix.crow_indices(), matrix.col_indices(), matrix.values().square(), matrix.shape)
        return _sparse_product(squares, vectors)

    def gram(self, vector: Tensor, weights: Tensor) -> Tensor:
        return self.transposed_product(weights * self.product(vector))


def multiply(matrix: Tensor, vectors: Tensor) -> Tensor:
    """(b, n, m) @ (b, m, k); a batch of one as a plain product, which is faster."""
    if matrix.shape[0] > 1:
        return matrix @ vectors
    if vectors.shape[2] == 1:
        return (matrix[0] @ vectors[0, :, 0])[None, :, None]
    return (matrix[0] @ vectors[0])[None]


def _sparse_product(matrix: Tensor, vectors: Tensor) -> Tensor:
    if vectors.shape[2] == 1:
        return (matrix @ vectors[0, :, 0])[None, :, None]
    return (matrix @ vectors[0])[None]


def build_dense(exponents: Exponents, tiles: Sequence[Tile], out: Tensor, dtype: torch.dtype) -> Stored:
    """Fill `out` (b, n, m), whose dtype may be coarser than that of the blocks; sums in `dtype`."""
    sums = _Sums(out.shape, exponents.like, dtype)
    if out.dtype == exponents.blocks.dtype:
        for tile in tiles:
            sums.add(tile, exponents.entries(tile, out[tile.batch, tile.rows, tile.columns]))
    else:
        for tile, buffer in passes.walk(tiles, exponents.like):
            out[tile.batch, tile.rows, tile.columns] = sums.add(tile, exponents.entries(tile, buffer))
    return Stored(DenseMatrix(out), sums.rows, sums.columns)


def rescale(stored: Stored, log_left: Tensor, log_right: Tensor, block_entries: int, squarings: int = 0) -> Stored:
    """Raise entries of a dense matrix to the power 2^squarings, multiply them by exp(l_i + r_j), and sum them again.

    In place; the factors come first, since the power alone might overflow.
    """
    assert isinstance(stored.matrix, DenseMatrix)
    entries, dtype = stored.matrix.entries, stored.rows.dtype
    sums = _Sums(entries.shape, entries, dtype)
    left, right = ((v / 2**squarings).exp().to(entries.dtype) for v in (log_left, log_right))
    for tile in cut(*entries.shape, entries=block_entries, whole_rows=True):
        block = entries[tile.batch, tile.rows]
        block.mul_(left[tile.batch, tile.rows, None]).mul_(right[tile.batch, None])
        for _ in range(squarings):
            block.square_()
        sums.add(tile, block)
    return Stored(stored.matrix, sums.rows, sums.columns)


def kept_share(exponents: Exponents, drop: float) -> float:
    """Share of entries above `drop`, from `PROBES` rows of the first problem and as many columns times 16, spread
    evenly."""
    rows, columns = (_spread(size, most) for size, most in zip(exponents.shape, (PROBES, 16 * PROBES), strict=True))
    shape = [len(range(size)[part]) for size, part in zip(exponents.shape, (rows, columns), strict=True)]
    filled = exponents.fill(Tile(slice(0, 1), rows, columns), exponents.like.new_empty(1, *shape))
    return float((filled > math.log2(drop)).double().mean())


def _spread(size: int, most: int) -> slice:
    step = max(1, size // most)
    return slice(step // 2, size, step)


def build_sparse(
    exponents: Exponents, tiles: Sequence[Tile], storage: torch.dtype, drop: float, dtype: torch.dtype
) -> Stored | None:
    """Keep the entries above `drop`, and their sums in `dtype`. None if there are too many. Tiles: whole rows."""
    n, m = exponents.shape
    values, columns, ends = [], [], [torch.zeros(1, dtype=torch.int64, device=exponents.like.device)]
    sums = _Sums((1, n, m), exponents.like, dtype)
    kept, seen, threshold = 0, 0, math.log2(drop)
    for tile, buffer in passes.walk(tiles, exponents.like):
        block = exponents.fill(tile, buffer)[0]
        index = (block > threshold).flatten().nonzero()[:, 0]
        found = block.flatten().index_select(0, index).exp2_()  # of these alone: exp2 is most of a dense build
        ends.append(kept + torch.searchsorted(index, m * torch.arange(1, len(block) + 1, device=index.device)))
        kept, seen = kept + len(index), seen + len(block)
        sums.add_entries(tile, index // m, index.remainder_(m), found.to(dtype))
        values.append(found.to(storage))
        columns.append(index.int())
        if kept > GIVE_UP_ABOVE * m * max(seen, n // 8):  # not only at the end of the matrix
            return None
    by_rows = compressed(torch.cat(ends).int(), _joined(columns), _joined(values), (n, m))
    return Stored(SparseMatrix(by_rows, transposed(by_rows)), sums.rows, sums.columns)


def _joined(parts: list[Tensor]) -> Tensor:
    """The parts as one tensor, and no longer in memory twice."""
    out = torch.cat(parts)
    parts.clear()
    return out


def compressed(ends: Tensor, index: Tensor, values: Tensor, shape: Sequence[int]) -> Tensor:
    """A sparse CSR tensor, not checked again."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")  # products with vectors are not
        return torch.sparse_csr_tensor(ends, index, values, tuple(shape), check_invariants=False)


def transposed(matrix: Tensor) -> Tensor:
    """The transpose of a CSR matrix as a CSR matrix of its own."""
    n, m = matrix.shape
    columns, order = matrix.col_indices().sort(stable=True)
    ends = torch.searchsorted(columns, torch.arange(m + 1, dtype=torch.int32, device=matrix.device), out_int32=True)
    del columns
    values = matrix.values().index_select(0, order)
    rows = torch.arange(n, dtype=torch.int32, device=matrix.device).repeat_interleave(matrix.crow_indices().diff())
    return compressed(ends, rows.index_select(0, order), values, (m, n))


class _Sums:
    """Row and column sums of blocks."""

    def __init__(self, shape: Sequence[int], like: Tensor, dtype: torch.dtype) -> None:
        b, n, m = shape
        self.rows, self.columns = like.new_zeros(b, n, dtype=dtype), like.new_zeros(b, m, dtype=dtype)

    def add(self, tile: Tile, block: Tensor) -> Tensor:
        self.rows[tile.batch, tile.rows] += block.sum(-1)
        self.columns[tile.batch, tile.columns] += block.sum(-2)
        return block

    def add_entries(self, tile: Tile, rows: Tensor, columns: Tensor, values: Tensor) -> None:
        """The same of single entries of the first problem, at rows of the tile and columns of the matrix."""
        self.rows[0, tile.rows].index_add_(0, rows, values)
        self.columns[0].index_add_(0, columns, values)


def power_of(old: float | Tensor, new: float | Tensor) -> int | None:
    """ε_old / ε_new if that is 1, 2, 4, …, the same for all problems; None for another ratio."""
    if old is new:
        return 1
    before, after = (torch.as_tensor(part, dtype=torch.float64, device="cpu") for part in (old, new))
    ratio = before / after
    power = round(float(ratio.flatten()[0]))
    alike = bool(((ratio - power).abs() < 1e-9 * power).all())
    return power if alike and power > 0 and power & (power - 1) == 0 else None


def change_of(old: Tensor | None, new: Tensor | None) -> Tensor | None:
    """new − old, 0 where None, as it is the logarithm of a scaling."""
    if old is None:
        return new
    return -old if new is None else torch.where(new == old, 0.0, new - old)  # −inf, a row switched off, stays
