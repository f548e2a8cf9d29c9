"""The error of what was built, on pairs that the choice has not seen, and where it is to be looked for."""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_core.contracts import Estimate
from atlas_kernels_builtin.approximate.exact import relative_error
from atlas_kernels_builtin.approximate.low_rank import LowRankOperator
from atlas_kernels_builtin.approximate.nystroem import residual

ROWS = 128
COLUMNS = 1024


@torch.no_grad()
def check(operator: LowRankOperator, generator: torch.Generator) -> tuple[Estimate, Tensor | None]:
    """Measure |K̂ − K|_F / |K|_F of one problem on a block of pairs, and tell the odds of all points, x and then y.

    An entry of the residual of a Nyström approximation is at most √(d_i d_j), d its diagonal: rows and columns are
    drawn by that, and half of them with equal odds. So few points far from all landmarks, which may carry most of the
    error and which equal odds would miss, are found. It reads the factors once. Features have no such points: no odds.
    """
    ((x, y, epsilon),) = operator.exact.problems()
    odds: list[Tensor | None] = [None, None]
    if operator.name == "nystroem":
        factors = (operator.left, operator.right)
        lefts = [
            residual(
                operator.exact.kernel, points.detach(), epsilon, factor.reshape(-1, operator.rank), operator.middle
            )
            for points, factor in zip((x, y), factors, strict=True)
        ]
        odds = [0.5 / len(left) + 0.5 * left / left.sum().clamp(min=1e-300) for left in lefts]
    rows, row_odds = _draw(len(x), ROWS, odds[0], generator)
    columns, column_odds = _draw(len(y), COLUMNS, odds[1], generator)
    exact = operator.exact.block(rows.to(x.device), columns.to(x.device))
    got = operator.entries(rows.to(x.device), columns.to(x.device)).double()
    roots = (len(y) * column_odds).rsqrt().to(x.device)
    everywhere = torch.ones(len(columns), dtype=torch.bool, device=x.device)
    error = relative_error(got * roots, exact * roots, row_odds.to(x.device), sampled_columns=everywhere)
    return error, None if odds[0] is None or odds[1] is None else torch.cat([odds[0], odds[1]])


def _draw(total: int, count: int, odds: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices with replacement, (count,), and the odds of each, on the CPU."""
    if odds is None:
        return torch.randint(total, (count,), generator=generator), torch.full((count,), 1 / total).double()
    index = torch.multinomial(odds.cpu(), count, replacement=True, generator=generator)
    return index, odds.cpu()[index]
