"""A separable kernel on a grid between two scalings of any size: the plan of a transport problem, as an operator."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Estimate
from atlas_kernels_builtin.exact.estimate import rounding_error
from atlas_kernels_builtin.grids.axis import RowBlock
from atlas_kernels_builtin.grids.vectors import columns_first, columns_last

if TYPE_CHECKING:
    from atlas_kernels_builtin.grids.separable import SeparableOperator


@attrs.frozen(eq=False, slots=False)
class ScaledSeparable:
    """diag(exp log_left) K diag(exp log_right) of a separable K, as products that neither overflow nor lose a term.

    After each axis the values are divided by what a vector of ones would give, so that they stay averages of the input:
    axis k is diag(1/s) K_k diag(w), with its scalings known once the operator is made.
    """

    absorbs = True
    positive = True

    base: SeparableOperator
    log_left: Tensor = attrs.field(repr=False)
    log_right: Tensor = attrs.field(repr=False)
    storage: torch.dtype
    contraction: Contraction = attrs.field(repr=False)

    @contraction.default
    def _contraction(self) -> Contraction:
        return contraction_of(self.base, self.log_right, self.storage)

    @property
    def shape(self) -> tuple[int, int]:
        return self.base.shape

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.base.batch_shape

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        return self.base.device

    @property
    def epsilon(self) -> float | Tensor:
        return self.base.epsilon

    @functools.cached_property
    def _scale(self) -> Tensor:
        """What the result of the last axis is multiplied with, (*batch, n, l)."""
        top = self.contraction.top
        return (self.log_left.double().reshape(top.shape) + top).exp().to(self.storage)

    def matvec(self, v: Tensor) -> Tensor:
        """(*batch, M) or (*batch, M, k) -> (*batch, N) or (*batch, N, k)."""
        single, values = columns_first(v, self.shape[1], self.batch_shape)
        stages, scale = self.contraction.stages, self._scale
        out, lead = values.to(self.storage), values.shape[:-1]
        for stage in stages:
            out = stage.apply(out.reshape(*lead, *stage.weights[0].shape[-2:]))
        return columns_last((out * scale).reshape(*lead, -1), single).to(v.dtype)

    def rmatvec(self, u: Tensor) -> Tensor:
        """(*batch, N) or (*batch, N, k) -> (*batch, M) or (*batch, M, k)."""
        single, values = columns_first(u, self.shape[0], self.batch_shape)
        stages, scale = self.contraction.stages, self._scale
        lead = values.shape[:-1]
        out = values.to(self.storage).reshape(*lead, *scale.shape[-2:]) * scale
        for stage in reversed(stages):
            out = stage.apply_transposed(out.reshape(*lead, -1, stage.weights[0].shape[-2]))
        return columns_last(out.reshape(*lead, -1), single).to(u.dtype)

    def gram(self, v: Tensor, weights: Tensor) -> Tensor:
        """Eᵀ diag(weights) E v of these entries E: (*batch, M), (*batch, N) -> (*batch, M)."""
        return self.gram_of(weights)(v)

    def gram_of(self, weights: Tensor) -> Callable[[Tensor], Tensor]:
        """v -> gram(v, weights), with what the weights alone determine made once for many v, as in a solver."""
        stages, shape = self.contraction.stages, self.contraction.top.shape
        middle = self._scale.square().mul_(weights.to(self.storage).reshape(shape))

        def apply(v: Tensor) -> Tensor:
            lead, out = v.shape[:-1], v.to(self.storage)
            for stage in stages:
                out = stage.apply(out.reshape(*lead, *stage.weights[0].shape[-2:]))
            out = out * middle
            for stage in reversed(stages):
                out = stage.apply_transposed(out.reshape(*lead, -1, stage.weights[0].shape[-2]))
            return out.reshape(v.shape).to(v.dtype)

        return apply

    def sums(self) -> tuple[Tensor, Tensor]:
        """Row and column sums, (*batch, N) and (*batch, M), in the precision of `dtype` whatever the storage."""
        if self.storage != self.dtype:
            rows = (self.log_left + self.base.log_matvec(self.log_right)).exp()
            return rows, (self.log_right + self.base.log_rmatvec(self.log_left)).exp()
        ones = torch.ones(*self.batch_shape, self.shape[0], dtype=self.dtype, device=self.device)
        return (self.contraction.total * self._scale).reshape(ones.shape), self.rmatvec(ones)

    def cost(self) -> Tensor:
        """Σ_ij of the entries times C_ij, (*batch,): mass and cost are carried along the axes side by side."""
        stages, scale = self.contraction.stages, self._scale
        lead = self.log_right.shape[:-1]
        mass = torch.ones(*lead, self.shape[1], dtype=self.storage, device=self.device)
        cost = torch.zeros_like(mass)
        for stage, log in zip(stages, reversed(self.base.logs), strict=True):
            mass, cost = (part.reshape(*lead, *stage.weights[0].shape[-2:]) for part in (mass, cost))
            mass, cost = stage.apply(mass), stage.apply(cost) + stage.apply(mass, cost=-log)
        return (cost * scale).flatten(len(lead)).sum(-1).to(self.dtype)

    def log_matvec(self, log_v: Tensor) -> Tensor:
        """(*batch, M) -> (*batch, N)."""
        return self.log_left + self.base.log_matvec(self.log_right + log_v)

    def log_rmatvec(self, log_u: Tensor) -> Tensor:
        """(*batch, N) -> (*batch, M)."""
        return self.log_right + self.base.log_rmatvec(self.log_left + log_u)

    def scaled(
        self, log_left: Tensor, log_right: Tensor, *, storage: torch.dtype | None = None, drop: float = 0.0
    ) -> ScaledSeparable:
        """The same, scaled once more."""
        return self.base.scaled(self.log_left + log_left, self.log_right + log_right, storage=storage, drop=drop)

    def log_rows(self, index: Tensor) -> Tensor:
        """The logarithm of the rows `index`: (r,) -> (*batch, r, M)."""
        return self.log_left[..., index, None] + self.base.log_rows(index) + self.log_right[..., None, :]

    def cost_inner(self, log_left: Tensor, log_right: Tensor) -> Tensor:
        """Σ_ij exp(l_i + r_j) E_ij C_ij of these entries E: (*batch,)."""
        return self.base.cost_inner(self.log_left + log_left, self.log_right + log_right)

    def dense(self) -> Tensor:
        """The entries, (*batch, N, M)."""
        return self.log_rows(torch.arange(self.shape[0], device=self.device)).exp()

    def error_estimate(self, probes: int = 64, *, seed: int = 0) -> Estimate:
        """Relative l2 error of `matvec`, on `probes` rows in float64: the rounding of the storage."""
        return rounding_error(self, self._exact_rows, probes, seed)

    def _exact_rows(self, index: Tensor) -> Tensor:
        left, right = self.log_left.double(), self.log_right.double()
        exact = attrs.evolve(self.base, dtype=torch.float64)
        return (left[..., index, None] + exact.log_rows(index) + right[..., None, :]).exp()


@attrs.frozen(eq=False)
class Stage:
    """One axis of a scaled operator: Σ_j tile_ij weight_lj x_lj, block by block."""

    blocks: tuple[RowBlock, ...]
    weights: tuple[Tensor, ...]
    """(*batch, l, m) each."""

    def apply(self, x: Tensor, *, cost: Tensor | None = None) -> Tensor:
        """(…, l, m) -> (…, n, l); entries times `cost` (n, m), where one is given."""
        if len(self.blocks) == 1 and cost is None:
            return self.blocks[0].contract(self.weights[0] * x)
        blocks = self.blocks if cost is None else [block.times(cost) for block in self.blocks]
        return _join([block.contract(weight * x) for block, weight in zip(blocks, self.weights, strict=True)])

    def apply_transposed(self, y: Tensor) -> Tensor:
        """(…, n, l) -> (…, l, m)."""
        if len(self.blocks) == 1:
            return (y.mT @ self.blocks[0].tile).mul_(self.weights[0])
        pairs = zip(self.blocks, self.weights, strict=True)
        return functools.reduce(
            torch.add, ((y[..., block.rows, :].mT @ block.tile) * weight for block, weight in pairs)
        )


@attrs.frozen(eq=False)
class Contraction:
    """K diag(exp log_right), axis by axis."""

    stages: tuple[Stage, ...]
    total: Tensor
    """Its row sums over exp(top): (*batch, n, l), in the dtype of the products."""
    top: Tensor
    """(*batch, n, l), float64."""

    @property
    def log_sums(self) -> Tensor:
        """log Σ_j K_ij exp(log_right_j): (*batch, n, l)."""
        return self.total.double().log() + self.top


def contraction_of(base: SeparableOperator, log_right: Tensor, storage: torch.dtype) -> Contraction:
    """Return the stages of K diag(exp log_right), with log_right (*batch, M)."""
    stages: list[Stage] = []
    level, correction = log_right.double(), None
    lead = level.shape[:-1]
    for axis in reversed(base.axes):
        level = level.reshape(*lead, -1, axis.log.shape[-1])
        blocks = axis.blocks(storage)
        weights, tops = zip(*(block.weigh(level) for block in blocks), strict=True)
        sums = [block.contract(weight) for block, weight in zip(blocks, weights, strict=True)]
        total = _join(sums)
        top = _join([part.mT.expand(part_sum.shape) for part, part_sum in zip(tops, sums, strict=True)])
        if correction is not None:
            weights = tuple(weight * correction.reshape(weight.shape) for weight in weights)
        stages.append(Stage(blocks, weights))
        level = total.double().log() + top
        # A line that no mass reaches is 0, and stays it.
        correction = torch.where(total > 0, total.reciprocal(), 0.0)
    return Contraction(tuple(stages), total, top)


def _join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=-2)
