"""How the matrix is cut: tiles that stay near the caches, or whole rows."""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs
import torch
from torch import Tensor

TILE_ROWS = 512
"""Rows of a tile where there is a choice: enough to amortise what a matrix product does once per tile."""


@attrs.frozen(eq=False)
class Tile:
    """Problems, rows and columns of one tile, and the coincident pairs in it: (problem, i, j) within the tile."""

    batch: slice
    rows: slice
    columns: slice
    pairs: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        problems, rows, columns = (s.stop - s.start for s in (self.batch, self.rows, self.columns))
        return problems, rows, columns


def tiles(
    count: int,
    n: int,
    m: int,
    *,
    entries: int,
    pairs: Tensor | None = None,
    whole_rows: bool = False,
    band: int | None = None,
    tall: int | None = None,
) -> list[Tile]:
    """Cut `count` matrices of n × m into tiles of at most `entries` (one row, if rows are to be whole).

    Tiles of the same rows follow each other, and have at most `band` entries together (one row, at the least). Rows
    may be cut into tiles of `tall` rows instead of `TILE_ROWS` or more.
    """
    if n * m <= entries:
        problems, rows, columns = min(count, entries // (n * m)), n, m
    elif whole_rows:
        problems, rows, columns = 1, min(n, max(1, entries // m)), m
    else:
        rows = min(n, tall or max(TILE_ROWS, entries // m), entries, n if band is None else max(1, band // m))
        problems, columns = 1, min(m, max(1, entries // rows))
    cut = [
        (batch, row, column)
        for batch in _slices(count, problems)
        for row in _slices(n, rows)
        for column in _slices(m, columns)
    ]
    if pairs is None or not pairs.shape[1]:
        return [Tile(*slices) for slices in cut]
    return list(_with_pairs(cut, pairs, (problems, rows, columns), (math.ceil(n / rows), math.ceil(m / columns))))


def _with_pairs(
    cut: list[tuple[slice, slice, slice]], pairs: Tensor, steps: tuple[int, int, int], grid: tuple[int, int]
) -> Iterator[Tile]:
    step = torch.tensor(steps, device=pairs.device)[:, None]
    place, local = pairs // step, pairs % step
    number, order = ((place[0] * grid[0] + place[1]) * grid[1] + place[2]).sort()
    ends = torch.bincount(number, minlength=len(cut)).cumsum(0).tolist()
    local = local[:, order]
    for slices, start, end in zip(cut, [0, *ends[:-1]], ends, strict=True):
        yield Tile(*slices, local[:, start:end] if end > start else None)


def _slices(length: int, step: int) -> Iterator[slice]:
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
