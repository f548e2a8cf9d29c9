"""Sinkhorn sweeps on an absorbed plan: P' = diag(u) P diag(v), each sweep two products, no host synchronisation."""

from __future__ import annotations

from typing import NamedTuple

import attrs
import torch
from torch import Tensor

from atlas_solvers_builtin.transport.balanced.absorbed import Around
from atlas_solvers_builtin.transport.problem import Problem

FAR = 40.0
"""|log u|, |log v| beyond which the potentials are absorbed anew: well within float32's exponents."""
NEAR = (-4.0, 10.0)
"""The same where sums are taken as differences to the exact ones: more than e⁻⁴ would cancel."""

ROUNDINGS = 16
"""Roundings of the storage that a sum of products is taken to gather."""
COARSE = 3e-2
"""Marginal error to which a coarse ε is solved: it is only where the next one starts."""
UNEVEN = 0.3
"""log of column sum over weight that no point may exceed there: what is left behind has far to go at a smaller ε."""


class Scalings(NamedTuple):
    """u and v, rows exact, with the column sums of diag(u) P diag(v); of every problem of a batch.

    A tuple, which a compiler can make inside a graph.
    """

    u: Tensor
    v: Tensor
    columns: Tensor
    error: Tensor
    """(*batch,): L1 of rows and columns, the larger, as a share of the mass."""


@attrs.frozen(eq=False)
class Local:
    """A problem seen from the plan around fixed potentials.

    `exact` (*batch,) is 1 where u and v are near 1: sums are then the exact ones of P plus a product with u − 1, so
    that what float32 storage rounds is small; 0 where they may be anything.
    """

    plan: Around
    problem: Problem
    exact: Tensor
    even: bool = False
    """True: an error counts as coarse as long as a single point is far from its weight, however light it is."""

    @property
    def a(self) -> Tensor:
        return self.problem.a

    @property
    def b(self) -> Tensor:
        return self.problem.b

    def row_sums(self, v: Tensor) -> Tensor:
        """P v."""
        base = self.exact[..., None]
        return base * self.plan.rows + self.plan.matvec(v - base)

    def column_sums(self, u: Tensor) -> Tensor:
        """Pᵀ u."""
        base = self.exact[..., None]
        return base * self.plan.columns + self.plan.rmatvec(u - base)

    def row_scaling(self, sums: Tensor) -> Tensor:
        """a / sums; 1 where there is no weight, so that the potential stays."""
        return torch.where(self.a > 0, self.a / sums, 1.0)

    def start(self) -> Scalings:
        """v = 1, and the rows made exact, which costs no product."""
        u, v = self.row_scaling(self.plan.rows), torch.ones_like(self.b)
        return self.measured(u, v)

    def measured(self, u: Tensor, v: Tensor) -> Scalings:
        """The scalings with their column sums: one product."""
        columns = v * self.column_sums(u)
        return Scalings(u, v, columns, self.error(columns))

    def error(self, columns: Tensor) -> Tensor:
        """L1 error of the columns, as a share of the mass."""
        error = (columns - self.b).abs().sum(-1) / self.problem.mass
        if not self.even:
            return error
        worst = torch.where(self.b > 0, (columns / self.b).log().abs(), 0.0).amax(-1)
        return torch.where(worst > UNEVEN, error.clamp(min=1.01 * COARSE), error)

    def uncertainty(self, at: Scalings, dropped: float) -> Tensor:
        """(*batch,): what the error may be off by, as a share of the mass; ∞ unless sums are differences to exact ones.

        That is what storage and products round of P (v − 1) and Pᵀ (u − 1), and what entries left out of the plan, at
        most `dropped` at u = v = 1, have grown to.
        """
        change = (self.a * (at.u - 1).abs() / at.u).sum(-1) + (at.columns * (at.v - 1).abs() / at.v).sum(-1)
        rounded = ROUNDINGS * torch.finfo(self.plan.storage).eps * change / self.problem.mass
        return torch.where(self.exact > 0, rounded + dropped * at.u.amax(-1) * at.v.amax(-1), torch.inf)

    def in_range(self, at: Scalings) -> Tensor:
        """(*batch,): whether u and v are still near enough to 1."""
        low, high = (torch.where(self.exact > 0, near, far) for near, far in zip(NEAR, (-FAR, FAR), strict=True))
        logs = torch.cat([at.u, at.v], dim=-1).log()
        return (logs.amin(-1) >= low) & (logs.amax(-1) <= high)


def sweep(local: Local, at: Scalings, going: Tensor, target: Tensor, *, count: int) -> tuple[Scalings, Tensor]:
    """Make up to `count` sweeps of the problems that are `going` (*batch,); also return how many each made.

    A problem stops, on the device, at `target` or out of range; what it returns does not depend on the others.
    """
    made = torch.zeros_like(going, dtype=torch.int64)
    for _ in range(count):
        going = going & (at.error > target) & local.in_range(at)
        v = torch.where(local.b > 0, at.v * local.b / at.columns, 1.0)
        u = local.row_scaling(local.row_sums(v))
        # Sums that underflowed would make scalings that are no numbers.
        going = going & _usable(u) & _usable(v)
        made = made + going
        at = chosen(going, local.measured(u, v), at)
    return at, made


def _usable(scaling: Tensor) -> Tensor:
    return ((scaling > 0) & scaling.isfinite()).all(-1)


def chosen(where: Tensor, new: Scalings, old: Scalings) -> Scalings:
    """`new` for the problems `where` (*batch,), `old` for the others."""
    wide = where[..., None]
    return Scalings(
        torch.where(wide, new.u, old.u),
        torch.where(wide, new.v, old.v),
        torch.where(wide, new.columns, old.columns),
        torch.where(where, new.error, old.error),
    )
