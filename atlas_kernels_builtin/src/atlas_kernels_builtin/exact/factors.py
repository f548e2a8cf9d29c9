"""A tile of l_i + r_j − c |x_i − y_j|² as one matrix product, its offsets folded into the points or beside them."""

from __future__ import annotations

from functools import cached_property

import attrs
import torch
from torch import Tensor

from atlas_kernels_builtin.exact.points import Points
from atlas_kernels_builtin.exact.tiles import Tile


@attrs.frozen(eq=False, slots=False)
class Folded:
    """Two more columns hold the offsets, l_i − c |x_i|² and r_j − c |y_j|²: fastest, for a copy of all points."""

    points: Points
    dtype: torch.dtype
    centred: bool
    rate: Tensor
    """c, (b,)."""
    left: Tensor | None
    """l, (b, n); 0 where None."""
    right: Tensor | None
    """r, (b, m)."""

    def multiply(self, tile: Tile, out: Tensor) -> None:
        """Write the tile to `out`, (problems, rows, columns)."""
        rows, columns = self._rows[tile.batch, tile.rows], self._columns[tile.batch, tile.columns]
        if out.shape[0] == 1:
            torch.mm(rows[0], columns[0].mT, out=out[0])
        else:
            torch.bmm(rows, columns.mT, out=out)

    @cached_property
    def _rows(self) -> Tensor:
        """(b, n, d + 2)."""
        out, squares = self._joined(0)
        out[..., -2], out[..., -1] = _offset(squares, self.rate, self.left), 1.0
        out[..., :-2] *= 2 * self.rate[:, None, None]
        return out

    @cached_property
    def _columns(self) -> Tensor:
        """(b, m, d + 2)."""
        out, squares = self._joined(1)
        out[..., -2], out[..., -1] = 1.0, _offset(squares, self.rate, self.right)
        return out

    def _joined(self, side: int) -> tuple[Tensor, Tensor]:
        part = self.points.part(side, slice(None), slice(None), self.dtype, centred=self.centred)
        out = part.new_empty(*part.shape[:-1], part.shape[-1] + 2)
        out[..., :-2] = part
        return out, part.square().sum(-1)


@attrs.frozen(eq=False, slots=False)
class Unfolded:
    """The same where the points are large beside the matrix: of a tile, only its own points are converted."""

    points: Points
    dtype: torch.dtype
    centred: bool
    rate: Tensor
    left: Tensor | None
    right: Tensor | None
    _latest: dict[int, tuple[tuple[slice, slice], Tensor, Tensor]] = attrs.field(init=False, factory=dict, repr=False)

    def multiply(self, tile: Tile, out: Tensor) -> None:
        """Write the tile to `out`, (problems, rows, columns)."""
        x, left = self._part(0, tile.batch, tile.rows)
        y, right = self._part(1, tile.batch, tile.columns)
        torch.add(left[:, :, None], right[:, None], out=out)
        rate = 2 * self.rate[tile.batch, None, None]
        if out.shape[0] == 1:
            out[0].addmm_(x[0], y[0].mT, alpha=float(rate))
        else:
            out.baddbmm_(rate * x, y.mT)

    def _part(self, side: int, batch: slice, rows: slice) -> tuple[Tensor, Tensor]:
        """Points (p, r, d) and offsets (p, r) of a tile, kept until another is asked for."""
        if side not in self._latest or self._latest[side][0] != (batch, rows):
            self._latest.pop(side, None)  # freed before the new one is made
            part = self.points.part(side, batch, rows, self.dtype, centred=self.centred)
            squares = torch.linalg.vector_norm(part, dim=-1).square_()
            scaling = (self.left, self.right)[side]
            offset = _offset(squares, self.rate[batch], None if scaling is None else scaling[batch, rows])
            self._latest[side] = (batch, rows), part, offset
        return self._latest[side][1:]


def _offset(squares: Tensor, rate: Tensor, scaling: Tensor | None) -> Tensor:
    offset = squares.mul_(-rate[:, None])
    return offset if scaling is None else offset.add_(scaling)
