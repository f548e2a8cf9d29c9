"""How a block of exponents log k(x_i, y_j) / ε + l_i + r_j is filled, fast and without cancellation.

Squared distances come from one matrix product, |x|² − 2xy + |y|². Its absolute error is about η = u (max|x| + max|y|)²,
u the rounding of the dtype, so the exponent of a pair at squared distance s is off by about
|log k(s + η) − log k(s)| / ε. Where that stays below `ACCURACY` (or below what rounding the exponent itself costs), the
product is used. Where it does not for near pairs alone (a kernel with a cusp), those are subtracted coordinate by
coordinate afterwards. Where it does not for many, the product is taken in float64 and rounded; and where even that does
not do (float64 at a tiny ε), the kernel itself compares pair by pair. Coincident pairs are written apart: they get
log k(0) exactly.

Points are centred, which makes η small. In low dimension the offsets are two more columns of the points, and the
product is all there is to do. In high dimension that copy would cost more memory than the product gains time: tiles of
the points are converted as they are needed, or multiplied as they are where η is small enough.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Kernel
from atlas_kernels_builtin.exact.checks import check_block
from atlas_kernels_builtin.exact.factors import Folded, Unfolded
from atlas_kernels_builtin.exact.points import CHUNK, Points
from atlas_kernels_builtin.exact.tiles import Tile, tiles

ACCURACY = {torch.float64: 1e-10, torch.float32: 1e-5}
"""The error of an exponent, hence the relative error of an entry, that the matrix product may cause."""
NEAR = 1e-3
"""Share of the largest squared distance below which pairs may be subtracted one by one: few are as near."""
MANY = 1 / 8
"""Share of such pairs in a tile from which the kernel itself is faster."""
RANGE = {torch.float64: 1e280, torch.float32: 1e30}
"""Squared distances up to which, and down to the inverse of which, a product is taken: squares neither over- nor
underflow there."""
FOLDED_BYTES = 2**23
"""Copies of the points that are never too large, nor are those of an eighth of a float32 matrix."""
TALL = 1024
"""Rows of a tile where its columns are converted for it."""
LOG2_E = math.log2(math.e)


@attrs.frozen
class Method:
    """How exponents are computed: by one product folded whole, from squared distances, or by the kernel itself."""

    name: Literal["quadratic", "radial", "kernel"]
    dtype: torch.dtype
    """Of the product."""
    near: float = 0.0
    """Squared distance below which the product is not accurate enough."""
    centred: bool = True


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
            quadratic = hasattr(self.kernel, "quadratic")
            most = 0.0 if quadratic else NEAR
            narrow = self.dtype if self.dtype in ACCURACY else torch.float32
            for dtype in dict.fromkeys((narrow, torch.float64)):
                as_they_are = not self.folds(dtype) and dtype == self.points.x.dtype
                for centred in (False, True) if as_they_are else (True,):
                    span = self.points.span if centred else self.points.raw_span
                    near = self._accurate_from(dtype, span)
                    if near <= most * span:
                        return Method("quadratic" if quadratic else "radial", dtype, near, centred)
        return Method("kernel", self.points.x.dtype)

    def folds(self, dtype: torch.dtype) -> bool:
        """Whether there is room for a copy of the points with two more columns."""
        n, m = self.points.x.shape[1], self.points.y.shape[1]
        size = self.points.x.shape[0] * (n + m) * (self.points.dimension + 2) * dtype.itemsize
        return size <= max(FOLDED_BYTES, self.points.x.shape[0] * n * m // 2)

    def _accurate_from(self, dtype: torch.dtype, span: float) -> float:
        """Squared distance from which a product in `dtype` is accurate, 0 if always and ∞ if never.

        By probing log k from the largest squared distance downwards.
        """
        accuracy = self.accuracy
        if accuracy is None:
            accuracy = ACCURACY.get(self.dtype, torch.finfo(self.dtype).eps)
        if not 1 / RANGE[dtype] < span < RANGE[dtype]:
            return 0.0 if span == 0 else math.inf
        probes = torch.cat([2.0 ** -torch.arange(64), torch.zeros(1)]).double() * span
        smallest = float(self.epsilon.min())
        values, moved = (
            self.kernel.log_radial(s).double() / smallest  # type: ignore[attr-defined]
            for s in (probes.clone(), probes + torch.finfo(dtype).eps * span)
        )
        allowed = accuracy + 4 * torch.finfo(self.dtype).eps * values.abs()
        wrong = ~((moved - values).abs().nan_to_num(nan=0.0) <= allowed)  # NaN: both infinite
        wrong[0] |= bool(values[values.isfinite()].abs().amax() > RANGE[dtype])
        if not bool(wrong.any()):
            return 0.0
        first = int(wrong.int().argmax())
        return math.inf if first == 0 else float(probes[first - 1])

    def tiles(self, block_bytes: int, *, whole_rows: bool = False, blocks: int | None = None) -> list[Tile]:
        """Tiles of at most `block_bytes` each; all that are beside each other at most as large as so many `blocks`."""
        (count, n), m = self.points.x.shape[:2], self.points.y.shape[1]
        kernel = self.method.name == "kernel"
        pairs = None if kernel else self.points.coincident
        entries = max(1, block_bytes // self.dtype.itemsize)
        band = None if blocks is None else blocks * entries
        # The columns of a tile are converted once for all its rows.
        tall = TALL if blocks is None and not kernel and not self.folds(self.method.dtype) else None
        return tiles(count, n, m, entries=entries, pairs=pairs, whole_rows=whole_rows, band=band, tall=tall)

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
        self._factors.multiply(tile, product)
        if method.name == "radial":
            product.clamp_(min=0)
            if method.near and not self._subtract_near(tile, product):
                return self._from_kernel(tile, out)
            product = self.blocks.kernel.log_radial(product)  # type: ignore[attr-defined]
            product = self._add_offsets(product.mul_(self._rate[tile.batch]), tile)
        if product is not out:
            out.copy_(product)
        if tile.pairs is not None:
            self._write_pairs(tile, out)
        return out

    def _subtract_near(self, tile: Tile, squared: Tensor) -> bool:
        """Replace squared distances that cancelled by those of coordinates; False, and nothing done, for too many."""
        points = self.blocks.points
        near = (squared < self.blocks.method.near).nonzero()
        if len(near) > MANY * squared.numel():
            return False
        x, y = (p[tile.batch, part].flatten(2) for p, part in ((points.x, tile.rows), (points.y, tile.columns)))
        for part in torch.split(near, max(1, CHUNK // points.dimension)):
            problem, i, j = part.unbind(1)
            squared[problem, i, j] = (x[problem, i] - y[problem, j]).to(squared.dtype).square().sum(-1)
        return True

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
        return check_block(self.blocks.kernel, out, (x.shape[0], x.shape[1], y.shape[1]))

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
    def _factors(self) -> Folded | Unfolded:
        """What a tile of exponents, or of squared distances, is a product of."""
        blocks = self.blocks
        method = blocks.method
        form = Folded if blocks.folds(method.dtype) else Unfolded
        if method.name == "radial":
            rate = torch.full_like(self._rate[:, 0, 0], -1.0)
            return form(blocks.points, method.dtype, method.centred, rate, None, None)
        return form(blocks.points, method.dtype, method.centred, self._rate[:, 0, 0] * self._quadratic, *self._offsets)

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
