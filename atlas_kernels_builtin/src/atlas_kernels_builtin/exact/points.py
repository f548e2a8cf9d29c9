"""Two sets of points, and what is found out about them once, whatever kernel and ε they are compared with."""

from __future__ import annotations

from functools import cached_property

import attrs
import torch
from torch import Tensor

from atlas_kernels_builtin.exact.coincident import coincident_pairs


@attrs.frozen(eq=False, slots=False)
class Points:
    """A flattened batch of problems, without a graph: x (b, n, *item) and y (b, m, *item)."""

    x: Tensor
    y: Tensor

    @cached_property
    def coincident(self) -> Tensor | None:
        """Pairs x_i = y_j as (problem, i, j), (3, p); None if there are too many to list."""
        return coincident_pairs(self.x.flatten(2), self.y.flatten(2))

    @cached_property
    def span(self) -> float:
        """(max|x| + max|y|)² of the centred points: what |x|² − 2xy + |y|² is rounded in proportion to."""
        x, y = self.centred(torch.float64 if self.x.dtype == torch.float64 else torch.float32)
        largest = (x.square().sum(-1).amax().sqrt() + y.square().sum(-1).amax().sqrt()).square()
        return float(largest)

    def centred(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Items as rows, (b, n, d) and (b, m, d), around their centre: distances stay, and norms are small."""
        if dtype not in self._centred:
            x, y = self.x.flatten(2), self.y.flatten(2)
            centre = (x.mean(1, keepdim=True) + y.mean(1, keepdim=True)) / 2
            # Subtracted in the wider of the two dtypes: the difference is rounded once.
            wide = torch.promote_types(dtype, x.dtype)
            centre = centre.to(wide)
            self._centred[dtype] = (x.to(wide) - centre).to(dtype), (y.to(wide) - centre).to(dtype)
        return self._centred[dtype]

    @cached_property
    def _centred(self) -> dict[torch.dtype, tuple[Tensor, Tensor]]:
        return {}
