"""Newton's method on the semi-dual of penalised transport: where sweeps creep, a few linear systems arrive."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_solvers_builtin.transport.conjugate_gradients import conjugate_gradients
from atlas_solvers_builtin.transport.unbalanced.absorbed_transforms import Absorbed
from atlas_solvers_builtin.transport.unbalanced.penalties import Penalty

LONGEST = 8.0
"""Most that a step may move a potential, in units of ε."""
STEPS, CHECK_EVERY = 200, 10
"""Most steps of conjugate gradients in one linear system, and how many lie between two looks of the host."""
FORCING = 0.1
"""Share of the residual that a linear system may leave."""
HALVINGS = 6
"""Of a step that does not raise the dual objective; after these it is not made."""
DAMPING = 1e-12
"""What keeps a system regular that a constant leaves unchanged, as a share of its diagonal."""


@attrs.frozen(eq=False)
class _Point:
    """Everything at one g: f = prox(T g), the plan's scalings and row sums, and the dual objective."""

    f: Tensor
    g: Tensor
    u: Tensor
    v: Tensor
    rows: Tensor
    slope: Tensor
    dual: Tensor


def newton(absorbed: Absorbed, penalties: tuple[Penalty, Penalty], g: Tensor) -> tuple[Tensor, Tensor, int]:
    """One step of D(g) = max_f of the dual objective, by conjugate gradients: the next f, g, and the CG steps made.

    With P the plan, r and c its sums, w the marginal that g wants and κ the slope of prox, z = dg / ε solves
    diag(c − ε b w'(g)) z − Pᵀ diag(κ / r) P z = b w(g) − c. A potential that rests at a kink stays there.
    """
    problem, second = absorbed.problem, penalties[1]
    here = _at(absorbed, penalties, g)
    columns = here.v * absorbed.entries.rmatvec(here.u)
    ratio = torch.where(problem.b > 0, columns / problem.b, 1.0)
    residual = problem.b * second.wanted(g, ratio) - columns
    free = (second.slope(g, problem.epsilon) > 0) | (residual != 0)
    diagonal = (columns + problem.epsilon[..., None] * problem.b * second.curvature(g)) * (1 + DAMPING)
    weight = torch.where(here.rows > 0, here.slope / here.rows, 0.0)

    def system(z: Tensor) -> Tensor:
        through = here.u.square() * weight * absorbed.entries.matvec(here.v * z)
        return torch.where(free, diagonal * z - here.v * absorbed.entries.rmatvec(through), 0.0)

    inverse = torch.where(free & (diagonal > 0), 1 / diagonal, 0.0)
    rhs = residual * free
    size = rhs.abs().sum(-1)
    z, steps = conjugate_gradients(
        system, inverse.mul, rhs, FORCING * size, size > 0, limit=STEPS, check_every=CHECK_EVERY
    )
    z = z.clamp(-LONGEST, LONGEST)
    length = torch.ones_like(here.dual)
    for _ in range(HALVINGS):
        there = _at(absorbed, penalties, second.legal(g + length[..., None] * problem.epsilon[..., None] * z))
        enough = there.dual >= here.dual
        if bool(enough.all()):
            break
        length = torch.where(enough, length, length / 2)
    rose = enough[..., None]
    return torch.where(rose, there.f, here.f), torch.where(rose, there.g, here.g), int(steps.max())


def _at(absorbed: Absorbed, penalties: tuple[Penalty, Penalty], g: Tensor) -> _Point:
    """One product."""
    problem, (first, second) = absorbed.problem, penalties
    v = problem.b * problem.over(g - absorbed.g).exp()
    sums = absorbed.entries.matvec(v)
    t = absorbed.t - problem.epsilon[..., None] * sums.log()
    f = first.prox(t, problem.epsilon)
    u = problem.a * problem.over(f - absorbed.t).exp()
    rows = u * sums
    gains = (problem.a * first.gain(f)).sum(-1) + (problem.b * second.gain(g)).sum(-1)
    return _Point(f, g, u, v, rows, first.slope(t, problem.epsilon), gains - problem.epsilon * rows.sum(-1))
