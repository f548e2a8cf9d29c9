"""Draw, from the plan of a mini-batch, who goes with whom: everyone once, and each pair as often as the plan says."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from atlas_core.contracts import NoiseSource

SPARE_BITS = 12
"""The plan is rounded to multiples of 1 / (2¹² n²): of its mass, some 2⁻¹³ is paired by chance instead."""


@torch.no_grad()
def draw_permutation(plan: Tensor, noise: NoiseSource, step: int) -> Tensor:
    """Return the column (n,), int64, that each row of a plan (n, n) between equal weights is paired with.

    A random permutation π with P(π(i) = j) = n P_ij, so that both marginals are exact in every draw, and the pairs
    follow the plan over the draws. A plan that is a permutation is followed to the letter. Of n P, written in binary,
    the lowest bit is rounded away again and again: since rows and columns have even sums, its ones fall into cycles of
    alternate entries, and a fair coin a cycle says which half goes up and which goes down (Euler partitions: Gabow
    1976; dependent rounding: Gandhi et al. 2006). Runs where the plan lies; the coins are those of `noise`, whose rows
    are the plan's.

    Marginal errors of the plan are divided out first. Raises ValueError for a plan that is not finite.
    """
    n = plan.shape[0]
    if plan.shape != (n, n):
        raise ValueError(f"pairs are drawn from a plan between as many points as points, not {tuple(plan.shape)}")
    device = plan.device
    if device.type == "mps":  # which has no float64
        plan = plan.cpu()
    bits = math.ceil(math.log2(max(n, 2))) + SPARE_BITS
    coins = (noise.uniform("pair", step, (bits + 1,)) * 2**53).long().to(plan.device)
    counts = _in_units(plan, 2**bits, coins[:, bits].argsort())
    for bit in range(bits):
        rows, columns = (counts & 1).nonzero(as_tuple=True)
        if len(rows):
            up = _alternate(rows, columns, coins[:, bit] & 1)
            counts[rows, columns] += torch.where(up, 1, -1)
        counts >>= 1
    return counts.argmax(1).to(device)


def _in_units(plan: Tensor, units: int, order: Tensor) -> Tensor:
    """Round n P down to integers (n, n) whose rows and columns sum to `units` exactly; what is left over is paired
    by rank in `order` (n,)."""
    shares = plan.double()
    shares = shares / shares.sum(1, keepdim=True)
    shares = shares / shares.sum(0).clamp(min=1)
    if not shares.isfinite().all():
        raise ValueError("the coupling's plan has a row that is empty or not finite: raise the solver's epsilon")
    counts = (shares * units).long()
    left, right = ((units - counts.sum(dim))[order].cumsum(0) for dim in (1, 0))
    ends = torch.cat([left, right]).sort().values
    amounts = ends.diff(prepend=ends.new_zeros(1))
    last = len(order) - 1
    cells = [order[torch.searchsorted(side, ends).clamp(max=last)] for side in (left, right)]
    return counts.index_put_((cells[0], cells[1]), amounts, accumulate=True)


def _alternate(rows: Tensor, columns: Tensor, coins: Tensor) -> Tensor:
    """Mark half of the entries (e,), sorted by row, of which every row and column has an even number: bool (e,).

    Half of those of each row and of each column are marked; each entry is with probability ½.
    """
    index = torch.arange(len(rows), device=rows.device, dtype=torch.int32)
    in_row = index ^ 1  # the entry that it is paired with in its row
    by_column = columns.argsort(stable=True)
    in_column = torch.empty_like(index)
    in_column[by_column] = by_column[in_row].int()
    # Two steps along the cycle lead to every second entry: a cycle falls into two orbits, the halves. An orbit is known
    # by its smallest entry, which jumps of doubling length find.
    jump, name = in_column.index_select(0, in_row), index
    for _ in range((len(rows) // 2).bit_length()):
        name = torch.minimum(name, name.index_select(0, jump))
        jump = jump.index_select(0, jump)
    other = name[in_row]
    return (name < other) ^ coins[rows[torch.minimum(name, other)]].bool()
