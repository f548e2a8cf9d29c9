"""A transport problem on a grid at every resolution: each level has half the points of the next along each axis."""

from __future__ import annotations

import functools
import math

import attrs
import torch
from atlas_kernels_builtin.grids.separable import SeparableOperator
from torch import Tensor

SMALLEST_AXIS = 4
"""An axis of at most that many points is not halved."""


@attrs.frozen(eq=False, slots=False)
class Level:
    """One resolution of a problem with weights a (N,) and b (M,), of equal mass."""

    logs: tuple[Tensor, ...]
    """log k of each axis, as of `SeparableOperator`."""
    a: Tensor
    b: Tensor
    places: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
    """Where the points of each axis lie, counted in points of the finest level, of either side."""

    @property
    def points(self) -> int:
        return self.b.shape[-1]

    @functools.cached_property
    def step(self) -> float:
        """The cost of one step of the grid along the axis where it is dearest, against that of staying."""
        steps = [(log.diagonal()[:-1] - log.diagonal(1)).abs().max() for log in self.logs if min(log.shape) > 1]
        return float(torch.stack(steps).max()) if steps else 0.0

    @property
    def mean_cost(self) -> float:
        return float(self.operator(1.0).mean_cost(self.a, self.b))

    @property
    def sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(log.shape[0] for log in self.logs), tuple(log.shape[1] for log in self.logs)

    def operator(self, epsilon: float) -> SeparableOperator:
        return SeparableOperator(self.logs, epsilon, self.a.dtype)

    def coarser(self) -> Level:
        """Pairs of neighbours put together: their masses added, their costs averaged."""
        pools = [[_pooling(size, self.a) for size in side] for side in self.sides]
        means = [[pool / pool.sum(0) for pool in side] for side in pools]
        logs = tuple(
            rows.double().mT @ log @ columns.double()
            for rows, log, columns in zip(means[0], self.logs, means[1], strict=True)
        )
        a, b = (
            apply_axes([pool.mT for pool in side], mass) for side, mass in zip(pools, (self.a, self.b), strict=True)
        )
        places = [
            tuple(mean.double().mT @ place for mean, place in zip(side, old, strict=True))
            for side, old in zip(means, self.places, strict=True)
        ]
        return Level(logs, a, b, (places[0], places[1]))

    def prolongation(self, coarse: Level, *, extrapolate: bool) -> list[Tensor]:
        """One matrix an axis, (fine, coarse), that interpolates g of `coarse` linearly at the points of this level."""
        return [
            _interpolation(fine, nodes, extrapolate).to(self.a)
            for fine, nodes in zip(self.places[1], coarse.places[1], strict=True)
        ]


def levels_of(operator: SeparableOperator, a: Tensor, b: Tensor, *, smallest: int) -> list[Level]:
    """All levels of one problem, from the coarsest, of at most `smallest` points where axes allow, to the problem."""
    places = tuple(
        tuple(torch.arange(size, dtype=torch.float64, device=a.device) for size in side) for side in operator.sides
    )
    levels = [Level(operator.logs, a, b, (places[0], places[1]))]
    while levels[0].points > smallest and max(map(max, levels[0].sides)) > SMALLEST_AXIS:
        levels.insert(0, levels[0].coarser())
    return levels


def apply_axes(matrices: list[Tensor], values: Tensor) -> Tensor:
    """(M₁ ⊗ M₂ ⊗ …) values: (m₁ m₂ …,) -> (n₁ n₂ …,)."""
    for matrix in reversed(matrices):
        values = matrix @ values.reshape(-1, matrix.shape[-1]).mT
    return values.reshape(-1)


def _pooling(size: int, like: Tensor) -> Tensor:
    """(size, half of it): 1 where a point belongs to a pair; the last one of an odd number stays alone."""
    half = size if size <= SMALLEST_AXIS else math.ceil(size / 2)
    owner = torch.arange(size, device=like.device) // (1 if half == size else 2)
    return torch.nn.functional.one_hot(owner, half).to(like)


def _interpolation(fine: Tensor, nodes: Tensor, extrapolate: bool) -> Tensor:
    if len(nodes) == 1:
        return torch.ones(len(fine), 1, dtype=fine.dtype, device=fine.device)
    left = (torch.searchsorted(nodes, fine, right=True) - 1).clamp(0, len(nodes) - 2)
    weight = (fine - nodes[left]) / (nodes[left + 1] - nodes[left])
    if not extrapolate:
        weight = weight.clamp(0, 1)
    matrix = torch.zeros(len(fine), len(nodes), dtype=fine.dtype, device=fine.device)
    matrix.scatter_(1, left[:, None], (1 - weight)[:, None])
    return matrix.scatter_(1, left[:, None] + 1, weight[:, None])
