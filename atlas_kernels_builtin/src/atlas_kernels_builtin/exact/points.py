"""Two sets of points, and what is found out about them once, whatever kernel and ε they are compared with."""

from __future__ import annotations

from functools import cached_property

import attrs
import torch
from torch import Tensor

from atlas_kernels_builtin.exact.coincident import coincident_pairs

CHUNK = 2**18
"""Coordinates that are looked at in one go: few enough to stay near the caches, and no copy of all points."""


@attrs.frozen(eq=False, slots=False)
class Points:
    """A flattened batch of problems, without a graph: x (b, n, *item) and y (b, m, *item)."""

    x: Tensor
    y: Tensor

    @cached_property
    def coincident(self) -> Tensor | None:
        """Pairs x_i = y_j as (problem, i, j), (3, p); None if there are too many to list."""
        return coincident_pairs(self.x.flatten(2), self.y.flatten(2))

    @property
    def dimension(self) -> int:
        """Coordinates of an item."""
        return self.x.shape[2:].numel()

    @cached_property
    def centre(self) -> Tensor:
        """The middle between the two means, (b, 1, d), in the dtype of the points."""
        return (self.x.flatten(2).mean(1, keepdim=True) + self.y.flatten(2).mean(1, keepdim=True)) / 2

    @cached_property
    def span(self) -> float:
        """(max|x| + max|y|)² of the centred points: what |x|² − 2xy + |y|² is rounded in proportion to."""
        return self._span(self.centre)

    @cached_property
    def raw_span(self) -> float:
        """The same of the points as they are."""
        return self._span(None)

    def _span(self, centre: Tensor | None) -> float:
        largest = self.x.new_zeros((), dtype=torch.float64)
        for side in (self.x.flatten(2), self.y.flatten(2)):
            rows = max(1, CHUNK // (side.shape[0] * side.shape[2]))
            parts = (part.double() for part in torch.split(side, rows, dim=1))
            sizes = [torch.linalg.vector_norm(p if centre is None else p - centre, dim=-1).amax() for p in parts]
            largest = largest + torch.stack(sizes).amax()
        return float(largest.square())

    def centred(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Items as rows, (b, n, d) and (b, m, d), around their centre: distances stay, and norms are small."""
        every = slice(None)
        return self.part(0, every, every, dtype), self.part(1, every, every, dtype)

    def part(self, side: int, batch: slice, rows: slice, dtype: torch.dtype, *, centred: bool = True) -> Tensor:
        """Some items as rows, (p, r, d), of x (`side` 0) or y (1); a view of them if nothing is to be done."""
        points = (self.x, self.y)[side][batch, rows].flatten(2)
        if not centred:
            return points.to(dtype)
        # Subtracted in the wider of the two dtypes: the difference is rounded once.
        wide = torch.promote_types(dtype, points.dtype)
        centre = self.centre[batch].to(wide)
        out = torch.empty_like(points, dtype=dtype)
        step = max(1, CHUNK // (points.shape[0] * points.shape[2]))
        for piece, found in zip(torch.split(points, step, dim=1), torch.split(out, step, dim=1), strict=True):
            found.copy_(piece.to(wide) - centre)
        return out
