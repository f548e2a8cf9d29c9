"""How a block of exponents log k(x_i, y_j) / ε + l_i + r_j is filled, fast and without cancellation.

Squared distances come from one matrix product, |x|² − 2xy + |y|² of centred points. Its absolute error is about
η = u (max|x| + max|y|)², u the rounding of the dtype, so the exponent of a pair at squared distance s is off by about
|log k(s + η) − log k(s)| / ε. Where that stays below `ACCURACY` (or below what rounding the exponent itself costs), the
product is used. Where it does not, the product is taken in float64 and rounded; and where even that does not do
(float64 at a tiny ε, or a kernel with a cusp), the kernel itself subtracts coordinates, pair by pair. Coincident pairs
are written apart: they get log k(0) exactly.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Kernel
from atlas_kernels_builtin.exact.points import Points
from atlas_kernels_builtin.exact.tiles import Tile, tiles

ACCURACY = {torch.float64: 1e-10, torch.float32: 1e-5}
"""The error of an exponent, hence the relative error of an entry, that the matrix product may cause."""
LOG2_E = math.log2(math.e)


@attrs.frozen
class Method:
    """How exponents are computed: by one product folded whole, from squared distances, or by the kernel itself."""

    name: Literal["quadratic", "radial", "kernel"]
    dtype: torch.dtype
    """Of the product."""


@attrs.frozen(eq=False, slots=False)
class Blocks:
    """The blocks of one kernel, one ε a problem and one dtype, which may be narrower than that of the points."""

    kernel: Kernel
    points: Points
    epsilon: Tensor
    """(b,)."""
    dtype: torch.dtype
    accuracy: float | None = None
    """The error of an exponent that is allowed; that of `ACCURACY` where None."""

    @cached_property
    def method(self) -> Method:
        """The fastest one that is accurate."""
        if self.kernel.has_log and hasattr(self.kernel, "log_radial") and self.points.coincident is not None:
            narrow = self.dtype if self.dtype in ACCURACY else torch.float32
            for dtype in dict.fromkeys((narrow, torch.float64)):
                if self._is_accurate(dtype):
                    return Method("quadratic" if hasattr(self.kernel, "quadratic") else "radial", dtype)
        return Method("kernel", self.points.x.dtype)

    def _is_accurate(self, dtype: torch.dtype) -> bool:
        """Whether a product in `dtype` is, by probing log k at squared distances from 0 to the largest."""
        span, accuracy = self.points.span, self.accuracy
        if accuracy is None:
            accuracy = ACCURACY.get(self.dtype, torch.finfo(self.dtype).eps)
        if not math.isfinite(span) or span > torch.finfo(dtype).max / 4:
            return False
        probes = torch.cat([torch.zeros(1), 2.0 ** -torch.arange(64)]).double() * span
        values, moved = (
            self.kernel.log_radial(s).double() / float(self.epsilon.min())  # type: ignore[attr-defined]
            for s in (probes.clone(), probes + torch.finfo(dtype).eps * span)
        )
        allowed = accuracy + 4 * torch.finfo(self.dtype).eps * values.abs()
        return bool(((moved - values).abs().nan_to_num(nan=0.0) <= allowed).all())  # NaN: both infinite

    def tiles(self, block_bytes: int, *, whole_rows: bool = False) -> list[Tile]:
        """Tiles of at most `block_bytes` each."""
        (count, n), m = self.points.x.shape[:2], self.points.y.shape[1]
        pairs = None if self.method.name == "kernel" else self.points.coincident
        return tiles(
            count, n, m, entries=max(1, block_bytes // self.dtype.itemsize), pairs=pairs, whole_rows=whole_rows
        )

    def exponents(self, left: Tensor | None, right: Tensor | None) -> Exponents:
        """What fills blocks with log k / ε + l_i + r_j, from l (b, n) and r (b, m), 0 where None."""
        return Exponents(self, left, right)


@attrs.frozen(eq=False, slots=False)
class Exponents:
    """Fill blocks with (log k / ε + l_i + r_j) log₂e: exp2 is twice as fast as exp."""

    blocks: Blocks
    left: Tensor | None
    right: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        return self.blocks.points.x.shape[1], self.blocks.points.y.shape[1]

    @cached_property
    def like(self) -> Tensor:
        """An empty tensor of the dtype and device of the blocks."""
        return self.blocks.points.x.new_empty(0, dtype=self.blocks.dtype)

    def fill(self, tile: Tile, out: Tensor) -> Tensor:
        """Write the tile to `out`, (problems, rows, columns), and return it."""
        method = self.blocks.method
        if method.name == "kernel":
            return self._from_kernel(tile, out)
        product = out if method.dtype == out.dtype else self._scratch(out.shape)
        _multiply(self._rows[tile.batch, tile.rows], self._columns[tile.batch, tile.columns], product)
        if method.name == "radial":
            product = self.blocks.kernel.log_radial(product.clamp_(min=0))  # type: ignore[attr-defined]
            product = self._add_offsets(product.mul_(self._rate[tile.batch]), tile)
        if product is not out:
            out.copy_(product)
        if tile.pairs is not None:
            self._write_pairs(tile, out)
        return out

    def entries(self, tile: Tile, out: Tensor) -> Tensor:
        """exp of the exponents; of a signed kernel, k exp(l_i) exp(r_j)."""
        if self.blocks.kernel.has_log:
            return self.fill(tile, out).exp2_()
        out.copy_(self._evaluate(self.blocks.kernel.block, tile))  # type: ignore[attr-defined]
        if self.left is not None:
            out.mul_(self.left[tile.batch, tile.rows, None].exp())
        if self.right is not None:
            out.mul_(self.right[tile.batch, None, tile.columns].exp())
        return out

    def _from_kernel(self, tile: Tile, out: Tensor) -> Tensor:
        log_k = self._evaluate(self.blocks.kernel.log_kernel, tile)
        return out.copy_(self._add_offsets(log_k * self._rate[tile.batch], tile))

    def _evaluate(self, function: Any, tile: Tile) -> Tensor:
        x = self.blocks.points.x[tile.batch, tile.rows]
        y = self.blocks.points.y[tile.batch, tile.columns]
        out: Tensor = function(x[0], y[0])[None] if x.shape[0] == 1 else torch.vmap(function)(x, y)
        return out

    def _add_offsets(self, exponents: Tensor, tile: Tile) -> Tensor:
        left, right = self._offsets
        if left is not None:
            exponents.add_(left[tile.batch, tile.rows, None])
        if right is not None:
            exponents.add_(right[tile.batch, None, tile.columns])
        return exponents

    def _write_pairs(self, tile: Tile, out: Tensor) -> None:
        assert tile.pairs is not None
        problem, i, j = tile.pairs
        value = (self._at_zero * self._rate[tile.batch, 0, 0])[problem]
        for offset, index, part in zip(self._offsets, (i, j), (tile.rows, tile.columns), strict=True):
            if offset is not None:
                value = value + offset[tile.batch, part][problem, index]
        out[problem, i, j] = value.to(out.dtype)

    @cached_property
    def _rate(self) -> Tensor:
        """log₂e / ε: (b, 1, 1)."""
        return (LOG2_E / self.blocks.epsilon.double()).to(self.blocks.method.dtype)[:, None, None]

    @cached_property
    def _offsets(self) -> tuple[Tensor | None, Tensor | None]:
        """l and r in base 2, in the dtype of the product."""
        dtype = self.blocks.method.dtype
        left, right = (None if v is None else v.to(dtype) * LOG2_E for v in (self.left, self.right))
        return left, right

    @cached_property
    def _rows(self) -> Tensor:
        """Factors of the product, (b, n, d + 2): their products with `_columns` are exponents, or squared distances."""
        x, _ = self.blocks.points.centred(self.blocks.method.dtype)
        squares = x.square().sum(-1)
        if self.blocks.method.name == "radial":
            return _join(-2 * x, squares, 1.0)
        rate = self._rate[..., 0] * self._quadratic
        offset = -rate * squares
        return _join(2 * rate[..., None] * x, offset if self._offsets[0] is None else offset + self._offsets[0], 1.0)

    @cached_property
    def _columns(self) -> Tensor:
        """(b, m, d + 2)."""
        _, y = self.blocks.points.centred(self.blocks.method.dtype)
        squares = y.square().sum(-1)
        if self.blocks.method.name == "radial":
            return _join(y, 1.0, squares)
        offset = -self._rate[..., 0] * self._quadratic * squares
        return _join(y, 1.0, offset if self._offsets[1] is None else offset + self._offsets[1])

    @property
    def _quadratic(self) -> float:
        return float(self.blocks.kernel.quadratic)  # type: ignore[attr-defined]

    @cached_property
    def _at_zero(self) -> float:
        zero = torch.zeros(1, dtype=torch.float64)
        return float(self.blocks.kernel.log_radial(zero))  # type: ignore[attr-defined]

    def _scratch(self, shape: torch.Size) -> Tensor:
        size = shape.numel()
        found = self._buffers.get("product")
        if found is None or found.numel() < size:
            found = torch.empty(size, dtype=self.blocks.method.dtype, device=self.blocks.points.x.device)
            self._buffers["product"] = found
        return found[:size].view(shape)

    @cached_property
    def _buffers(self) -> dict[str, Tensor]:
        return {}


def _join(points: Tensor, first: Tensor | float, second: Tensor | float) -> Tensor:
    """Append two columns, written once."""
    out = points.new_empty(*points.shape[:-1], points.shape[-1] + 2)
    out[..., :-2], out[..., -2], out[..., -1] = points, first, second
    return out


def _multiply(rows: Tensor, columns: Tensor, out: Tensor) -> None:
    if out.shape[0] == 1:
        torch.mm(rows[0], columns[0].mT, out=out[0])
    else:
        torch.bmm(rows, columns.mT, out=out)
