"""A transport problem on a grid at every resolution: each level has half the points of the next along each axis."""

from __future__ import annotations

import functools
from collections.abc import Callable

import attrs
import torch
from atlas_kernels_builtin.grids.separable import SeparableOperator
from torch import Tensor

SMALLEST_AXIS = 4
"""An axis of at most that many points is not halved."""


@attrs.frozen(eq=False, slots=False)
class Level:
    """One resolution of problems with weights a (*batch, N) and b (*batch, M), of equal mass."""

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
    def log_a(self) -> Tensor:
        return self.a.log()

    @functools.cached_property
    def log_b(self) -> Tensor:
        return self.b.log()

    @functools.cached_property
    def dark(self) -> bool:
        """Whether there is a point without weight b, where a Sinkhorn step cannot be told from the column sums."""
        return not bool((self.b > 0).all())

    @functools.cached_property
    def mass(self) -> Tensor:
        """(*batch,)."""
        return self.b.sum(-1)

    @functools.cached_property
    def step(self) -> float:
        """The cost of one step of the grid along the axis where it is dearest, against that of staying."""
        steps = [(log.diagonal()[:-1] - log.diagonal(1)).abs().max() for log in self.logs if min(log.shape) > 1]
        return float(torch.stack(steps).max()) if steps else 0.0

    @property
    def mean_cost(self) -> float:
        """Of the problem of the batch whose costs are largest."""
        return float(self.operator(1.0).mean_cost(self.a, self.b).max())

    @property
    def sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(log.shape[0] for log in self.logs), tuple(log.shape[1] for log in self.logs)

    def operator(self, epsilon: float) -> SeparableOperator:
        return SeparableOperator(self.logs, epsilon, self.a.dtype, tuple(self.a.shape[:-1]))

    def coarser(self) -> Level:
        """Pairs of neighbours put together: their masses added, their costs averaged."""
        masses = [
            _pooled(mass, side).flatten(-len(side)) for mass, side in zip((self.a, self.b), self.sides, strict=True)
        ]
        logs = tuple(_averaged(_averaged(log, -2), -1) for log in self.logs)
        places = [tuple(_averaged(place, -1) for place in side) for side in self.places]
        return Level(logs, masses[0], masses[1], (places[0], places[1]))

    def prolongation(self, coarse: Level, *, extrapolate: bool) -> list[Tensor]:
        """One matrix an axis, (fine, coarse), that interpolates g of `coarse` linearly at the points of this level."""
        made: dict[tuple[int, int], Tensor] = {}
        for fine, nodes in zip(self.places[1], coarse.places[1], strict=True):
            # Places are counted in points, so that axes of one length have one matrix.
            if (len(fine), len(nodes)) not in made:
                made[len(fine), len(nodes)] = _interpolation(fine, nodes, extrapolate).to(self.a)
        return [made[len(fine), len(nodes)] for fine, nodes in zip(self.places[1], coarse.places[1], strict=True)]


def levels_of(operator: SeparableOperator, a: Tensor, b: Tensor, *, smallest: int) -> list[Level]:
    """All levels of problems of one size, from the coarsest, of at most `smallest` points where axes allow.

    The last one is that of the problems themselves, with weights (*batch, N) and (*batch, M).
    """
    places = tuple(
        tuple(torch.arange(size, dtype=torch.float64, device=a.device) for size in side) for side in operator.sides
    )
    levels = [Level(operator.logs, a, b, (places[0], places[1]))]
    while levels[0].points > smallest and max(map(max, levels[0].sides)) > SMALLEST_AXIS:
        levels.insert(0, levels[0].coarser())
    return levels


def apply_axes(matrices: list[Tensor], values: Tensor) -> Tensor:
    """(M₁ ⊗ M₂ ⊗ …) values: (*batch, m₁ m₂ …) -> (*batch, n₁ n₂ …)."""
    lead = values.shape[:-1]
    for matrix in reversed(matrices):
        values = matrix @ values.reshape(*lead, -1, matrix.shape[-1]).mT
    return values.reshape(*lead, -1)


def _pooled(mass: Tensor, side: tuple[int, ...]) -> Tensor:
    """Sums of pairs of neighbours along each axis: (*batch, N) -> (*batch, *half)."""
    image = mass.reshape(*mass.shape[:-1], *side)
    for dim in range(-len(side), 0):
        if image.shape[dim] > SMALLEST_AXIS:
            image = _paired(image, dim, torch.zeros_like).sum(dim)
    return image


def _averaged(values: Tensor, dim: int) -> Tensor:
    """Means of pairs of neighbours along an axis; the last one of an odd number stays alone."""
    if values.shape[dim] <= SMALLEST_AXIS:
        return values
    return _paired(values, dim, torch.clone).mean(dim)


def _paired(values: Tensor, dim: int, filling: Callable[[Tensor], Tensor]) -> Tensor:
    """(…, n, …) -> (…, ⌈n/2⌉, 2, …), an odd number filled up with what `filling` makes of the last; dim < 0."""
    if values.shape[dim] % 2:
        values = torch.cat([values, filling(values.narrow(dim, -1, 1))], dim)
    before, after = values.shape[:dim], values.shape[dim:][1:]
    return values.reshape(*before, -1, 2, *after)


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
