"""Pairs of points that are equal in every coordinate: their kernel is k(x, x), whatever the rounding of a product."""

from __future__ import annotations

import torch
from torch import Tensor

PAIRS_PER_POINT = 4
"""More coincident pairs than this for each point, and they are no longer listed."""
CHUNK = 2**18
"""Coordinates that are looked at in one go: few enough to stay near the caches."""
SLACK = 64
"""Roundings by which projections of equal points may differ, since sums may be taken in another order."""


@torch.no_grad()
def coincident_pairs(x: Tensor, y: Tensor) -> Tensor | None:
    """Return (problem, i, j) of every x_i = y_j, as (3, p), sorted; x (b, n, d) and y (b, m, d).

    None if there are more than four times as many as points: lattices and rounded data. In O((n + m) (d + log m)):
    only rows whose projections on a line are equal up to rounding are compared.
    """
    (keys_x, slack), (keys_y, _) = _projected(x), _projected(y)
    sorted_y, order = keys_y.sort(dim=-1)
    first = torch.searchsorted(sorted_y, keys_x - slack)
    count = torch.searchsorted(sorted_y, keys_x + slack, right=True) - first
    total = int(count.sum())
    if total > PAIRS_PER_POINT * (x.shape[0] * (x.shape[1] + y.shape[1])):
        return None
    problem, i = count.nonzero(as_tuple=True)
    repeats = count[problem, i]
    start = (repeats.cumsum(0) - repeats).repeat_interleave(repeats)
    offset = torch.arange(total, device=x.device) - start
    problem, i = problem.repeat_interleave(repeats), i.repeat_interleave(repeats)
    j = order[problem, first[problem, i] + offset]
    rows = max(1, CHUNK // x.shape[2])
    same = [
        (x[p, r] == y[p, c]).all(-1) for p, r, c in zip(*(torch.split(z, rows) for z in (problem, i, j)), strict=True)
    ]
    return torch.stack([problem, i, j])[:, torch.cat(same)]


def _projected(points: Tensor) -> tuple[Tensor, Tensor]:
    """Projections on a line, and what bounds their rounding: (b, n, d) -> (b, n), (b, n), in float64."""
    line = torch.arange(1, points.shape[-1] + 1, dtype=torch.float64, device=points.device)
    line = torch.cos(line.square())  # of no direction in which data are likely to be alike
    rows = max(1, CHUNK // (points.shape[0] * points.shape[-1]))
    keys, sizes = [], []
    for part in torch.split(points, rows, dim=1):
        wide = part.double()
        keys.append(wide @ line)
        sizes.append(torch.linalg.vector_norm(wide, dim=-1))
    unit = SLACK * torch.finfo(torch.float64).eps * torch.linalg.vector_norm(line)
    return torch.cat(keys, dim=1), unit * torch.cat(sizes, dim=1)
