"""Newton's method on the semi-dual, by conjugate gradients: Sinkhorn's convergence at the square root of its price.

With the rows of P = diag(u) P₀ diag(v) exact and c = Pᵀ1, the semi-dual D(g) = ⟨a, f(g)⟩ + ⟨b, g⟩ has the gradient
b − c, and ε times its negative Hessian is the Schur complement S = diag(c) − Pᵀ diag(1/a) P, which is positive
semi-definite and vanishes on constants alone. One step of conjugate gradients is two products, as is one sweep; but
where sweeps converge as κ, the condition of S, conjugate gradients converge as √κ.

The diagonal of S itself preconditions, not c: a point that has found its partner has an entry near 0, and there are
many such at small ε. In 16 and 64 dimensions that takes κ from 10³ and 10² to about 15.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_solvers_builtin.transport.balanced.sweeps import Local, Scalings, chosen
from atlas_solvers_builtin.transport.conjugate_gradients import conjugate_gradients

LONGEST = 4.0
"""The most that log v may change in one step; the quadratic model does not reach further."""
DAMPING = 4.0
"""Roundings of the stored entries that are added to S, as a share of c: below is nothing but noise, of either sign."""
SHORTEST = 1 / 64


@attrs.frozen(eq=False)
class Schur:
    """S at the scalings `at`."""

    local: Local
    at: Scalings
    inverse_a: Tensor
    damped: Tensor
    """c, and what rounding of the stored entries could take from it."""
    preconditioner: Tensor

    def __matmul__(self, z: Tensor) -> Tensor:
        at = self.at
        return self.damped * z - at.v * self.local.plan.gram(at.v * z, at.u.square() * self.inverse_a)


def schur(local: Local, at: Scalings) -> Schur:
    inverse = torch.where(local.a > 0, 1 / local.a, 0.0)
    damping = DAMPING * torch.finfo(local.plan.storage).eps
    damped = at.columns * (1 + damping)
    diagonal = damped
    squares = local.plan.squares(at.u.square() * inverse)
    if squares is not None:
        diagonal = torch.maximum(diagonal - at.v.square() * squares, damping * at.columns)
    return Schur(local, at, inverse, damped, torch.where(diagonal > 0, 1 / diagonal, 0.0))


@attrs.frozen(eq=False)
class NewtonStep:
    at: Scalings
    products: Tensor
    """(*batch,): pairs of products, as a sweep makes one."""
    moved: Tensor
    """(*batch,): False where rounding left nothing to gain."""


def newton_step(
    local: Local, at: Scalings, going: Tensor, goal: Tensor, *, limit: Tensor, check_every: int
) -> NewtonStep:
    """One step of the problems that are `going`, to a residual of `goal` (a share of the mass) if S were constant."""
    problem = local.problem
    residual = local.b - at.columns
    system = schur(local, at)
    z, steps = conjugate_gradients(
        system.__matmul__,
        system.preconditioner.mul,
        residual,
        goal * problem.mass,
        going,
        limit=limit,
        check_every=check_every,
    )
    # Constants change nothing; without them the step is as short as it can be. A point that hardly exchanges mass with
    # the others wants to go far, further than the model reaches, and must not hold up the rest.
    z = (z - ((z * local.b).sum(-1) / problem.mass)[..., None]).clamp(-LONGEST, LONGEST)
    slope = (residual * z).sum(-1)
    length = torch.ones_like(slope)
    before = _dual(local, at.u, at.v)
    # What storage in float32 rounds of the semi-dual: of its changes where the base is exact, else of all of it.
    changes = torch.where(
        local.exact > 0, (local.b * (z.abs() + at.v.log().abs())).sum(-1), before.abs() + problem.mass
    )
    noise = 16 * torch.finfo(torch.float32).eps * changes
    going = going & (steps > 0)
    searching, u, v = going, at.u, at.v
    while True:
        trial_v = at.v * (length[..., None] * z).exp()
        trial_u = local.row_scaling(local.row_sums(trial_v))
        # Armijo's condition on the semi-dual.
        gained = _dual(local, trial_u, trial_v) >= before + 1e-4 * length * slope - noise
        taken = searching & gained
        u, v = torch.where(taken[..., None], trial_u, u), torch.where(taken[..., None], trial_v, v)
        searching = searching & ~gained & (length > SHORTEST)
        length = torch.where(searching, length / 2, length)
        if not bool(searching.any()):
            break
    moved = going & (v != at.v).any(-1)
    return NewtonStep(chosen(moved, local.measured(u, v), at), steps + 1, moved)


def _dual(local: Local, u: Tensor, v: Tensor) -> Tensor:
    """⟨a, log u⟩ + ⟨b, log v⟩: the semi-dual over ε, up to a constant."""
    return (local.a * u.log()).sum(-1) + (local.b * v.log()).sum(-1)
