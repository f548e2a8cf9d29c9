"""Pairs of points that are equal in every coordinate: their kernel is k(x, x), whatever the rounding of a product."""

from __future__ import annotations

import torch
from torch import Tensor

PAIRS_PER_POINT = 4
"""More coincident pairs than this for each point, and they are no longer listed."""
CHUNK = 2**20
"""Coordinates that are hashed at a time."""


@torch.no_grad()
def coincident_pairs(x: Tensor, y: Tensor) -> Tensor | None:
    """Return (problem, i, j) of every x_i = y_j, as (3, p), sorted; x (b, n, d) and y (b, m, d).

    None if there are more than four times as many as points: lattices and rounded data. In O((n + m) (d + log m)):
    rows are compared by a hash of their bits first.
    """
    keys_x, keys_y = _hash(x), _hash(y)
    sorted_y, order = keys_y.sort(dim=-1)
    first = torch.searchsorted(sorted_y, keys_x)
    count = torch.searchsorted(sorted_y, keys_x, right=True) - first
    total = int(count.sum())
    if total > PAIRS_PER_POINT * (x.shape[0] * (x.shape[1] + y.shape[1])):
        return None
    problem, i = count.nonzero(as_tuple=True)
    repeats = count[problem, i]
    start = (repeats.cumsum(0) - repeats).repeat_interleave(repeats)
    offset = torch.arange(total, device=x.device) - start
    problem, i = problem.repeat_interleave(repeats), i.repeat_interleave(repeats)
    j = order[problem, first[problem, i] + offset]
    same = (x[problem, i] == y[problem, j]).all(dim=-1)
    return torch.stack([problem, i, j])[:, same]


def _hash(points: Tensor) -> Tensor:
    """A 64-bit number for each row, the same for equal rows: (b, n, d) -> (b, n)."""
    odd = torch.arange(1, points.shape[-1] + 1, device=points.device) * -7046029254386353131 | 1
    rows = max(1, CHUNK // (points.shape[0] * points.shape[-1]))

    def of(part: Tensor) -> Tensor:
        bits = (part.double() + 0.0).view(torch.int64)  # + 0.0: −0 equals 0
        return ((bits ^ (bits >> 29)) * odd).sum(dim=-1)

    return torch.cat([of(part) for part in torch.split(points, rows, dim=1)], dim=1)
