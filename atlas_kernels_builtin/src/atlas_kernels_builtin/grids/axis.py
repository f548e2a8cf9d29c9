"""One axis of a separable kernel on a grid: a small matrix, applied in the log domain at the speed of a product."""

from __future__ import annotations

import functools
import math

import attrs
import torch
from torch import Tensor


@attrs.frozen(eq=False)
class RowBlock:
    """Rows of K = exp(log) that are scaled column by column: K_ij = tile_ij · exp(peak_j), tile ≤ 1.

    Within a block no column spans more than the exponents of the dtype, so `tile` holds no harmful zero.
    """

    rows: slice
    peak: Tensor
    """(*batch, m): the largest log K_ij of the block's rows, in float64."""
    tile: Tensor
    """(*batch, r, m), in the dtype of the products."""

    def weigh(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """exp(level + peak − top) and top, the largest of each line: (*batch, l, m) -> (*batch, l, m), (*batch, l, 1).

        Every output is at least its line's largest term, within the reach of the dtype: what underflows here is lost
        in rounding there.
        """
        shifted = level + self.peak[..., None, :]
        # A line of weight zero has no largest term; any finite number leaves it zero.
        top = shifted.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(level.dtype).min)
        return shifted.sub_(top).exp_().to(self.tile.dtype), top

    def contract(self, values: Tensor) -> Tensor:
        """Σ_j tile_ij values_j, the last axis moved to the front: (*batch, l, m) -> (*batch, r, l)."""
        # On a CPU this order of the factors is several times faster in float64 than the one that moves axes to the end.
        return self.tile @ values.mT

    def times(self, cost: Tensor) -> RowBlock:
        """The block with its entries times `cost` (n, m); an infinite cost has weight 0, and 0 · ∞ is meant to be 0."""
        part = cost[..., self.rows, :]
        return attrs.evolve(self, tile=torch.where(self.tile > 0, self.tile * part, 0.0).to(self.tile.dtype))


@attrs.frozen(eq=False, slots=False)
class AxisKernel:
    """log K of the coordinates of one axis, (*batch, n, m), divided by ε, in float64."""

    log: Tensor

    @functools.cached_property
    def T(self) -> AxisKernel:  # noqa: N802 - torch's name for it
        return AxisKernel(self.log.mT)

    @functools.cached_property
    def double(self) -> tuple[RowBlock, ...]:
        """Blocks for products in float64: a single one unless the costs exceed some 640 ε."""
        return self._blocks(torch.float64)

    @functools.cached_property
    def single(self) -> tuple[RowBlock, ...]:
        """Blocks for products in float32: a single one unless the costs exceed some 78 ε."""
        return self._blocks(torch.float32)

    def blocks(self, dtype: torch.dtype) -> tuple[RowBlock, ...]:
        return self.double if dtype == torch.float64 else self.single

    def log_contract(self, level: Tensor, dtype: torch.dtype) -> Tensor:
        """log Σ_j exp(log_ij + level_j), the last axis moved to the front: (*batch, l, m) -> (*batch, n, l).

        As exact as `torch.logsumexp`, which would take n exponentials where this takes one a block.
        """
        parts = []
        for block in self.blocks(dtype):
            weights, top = block.weigh(level)
            parts.append(block.contract(weights).to(level.dtype).log() + top.mT)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)

    def _blocks(self, dtype: torch.dtype) -> tuple[RowBlock, ...]:
        n, log = self.log.shape[-2], self.log.detach()
        reach = -0.9 * math.log(torch.finfo(dtype).tiny)
        count, span = 1, _span(log, n)
        while span > reach and count < n:
            # The span falls with the height of a block, about in proportion.
            grown = math.ceil(count * min(span / reach, 2.0))
            count = min(n, max(count + 1, grown))
            span = _span(log, math.ceil(n / count))
        return tuple(
            _block(self.log, slice(i, i + math.ceil(n / count)), dtype) for i in range(0, n, math.ceil(n / count))
        )


def _span(log: Tensor, height: int) -> float:
    """The most that a column changes within `height` consecutive rows of a block."""
    if height == 1:
        return 0.0
    spans = [(part.amax(-2) - part.amin(-2)).max() for part in torch.split(log, height, dim=-2)]
    return float(torch.stack(spans).max().nan_to_num(nan=math.inf))


def _block(log: Tensor, rows: slice, dtype: torch.dtype) -> RowBlock:
    part = log[..., rows, :]
    peak = part.detach().amax(-2).clamp(min=torch.finfo(log.dtype).min)
    return RowBlock(rows, peak, (part - peak[..., None, :]).exp().to(dtype))
