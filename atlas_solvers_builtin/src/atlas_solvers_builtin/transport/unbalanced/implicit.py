"""Derivatives of the potentials of a penalised problem, by the implicit function theorem."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from atlas_solvers_builtin.transport.balanced.absorbed import around, signed_product
from atlas_solvers_builtin.transport.conjugate_gradients import conjugate_gradients
from atlas_solvers_builtin.transport.problem import Problem
from atlas_solvers_builtin.transport.unbalanced.penalties import Penalty

STEPS = 5000
"""Steps of conjugate gradients in a backward pass, at most."""


def attached_potentials(
    problem: Problem, penalties: tuple[Penalty, Penalty], f: Tensor, g: Tensor
) -> tuple[Tensor, Tensor]:
    """f and g with the graph of the problem's operator, weights and ε; not of the prices ρ, which are numbers.

    At the optimum f = F(g, θ) and g = G(f, θ): prox of the c-transforms, of slopes s and t. So df + s Π dg = ∂F and
    t Q df + dg = ∂G, with Π and Q the plan with its rows, and columns, divided by their sums. One of the two sides at
    least has to have slopes below 1, or constants are not told.
    """
    epsilon = problem.epsilon
    rows = -epsilon[..., None] * problem.operator.log_matvec(problem.attached_right(g))
    columns = -epsilon[..., None] * problem.operator.log_rmatvec(problem.attached_left(f))
    moved_f, moved_g = (penalty.prox(t, epsilon) for penalty, t in zip(penalties, (rows, columns), strict=True))
    if not (moved_f.requires_grad or moved_g.requires_grad):
        return f, g
    slopes = [penalty.slope(t, epsilon).detach() for penalty, t in zip(penalties, (rows, columns), strict=True)]
    out: tuple[Tensor, Tensor] = _Implicit.apply(moved_f, moved_g, problem.detach(), f, g, *slopes)
    return out


class _Implicit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        moved_f: Tensor,
        moved_g: Tensor,
        problem: Problem,
        f: Tensor,
        g: Tensor,
        slope_f: Tensor,
        slope_g: Tensor,
    ) -> Any:
        ctx.problem = problem
        ctx.save_for_backward(f, g, slope_f, slope_g)
        return f.clone(), g.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, to_f: Tensor, to_g: Tensor) -> tuple[Tensor | None, ...]:
        f, g, slope_f, slope_g = ctx.saved_tensors
        return (*_adjoint(ctx.problem, f, g, (slope_f, slope_g), to_f, to_g), *(None,) * 5)


def _adjoint(
    problem: Problem, f: Tensor, g: Tensor, slopes: tuple[Tensor, Tensor], to_f: Tensor, to_g: Tensor
) -> tuple[Tensor, Tensor]:
    """Solve (α + Qᵀ(t β), Πᵀ(s α) + β) = (to_f, to_g).

    With r and c the sums of the plan P and w = t β / c, α = to_f − P w is eliminated: what is left is symmetric,
    (diag(c / t) − Pᵀ diag(s / r) P) w = to_g − Pᵀ(s to_f / r). A point without weight sends its share to the others and
    takes no part.
    """
    a, b, (slope_f, slope_g) = problem.a, problem.b, slopes
    own_f, own_g = torch.where(a > 0, 0.0, to_f), torch.where(b > 0, 0.0, to_g)
    to_f, to_g = to_f - own_f, to_g - own_g
    if bool((own_f != 0).any() | (own_g != 0).any()):
        operator, left, right = problem.operator, problem.left(f), problem.right(g)
        to_g = to_g - signed_product(operator.log_rmatvec, right, -operator.log_matvec(right), slope_f * own_f)
        to_f = to_f - signed_product(operator.log_matvec, left, -operator.log_rmatvec(left), slope_g * own_g)
    plan = around(problem, f, g, storage=problem.operator.dtype, drop=0.0)
    through = torch.where(plan.rows > 0, slope_f / plan.rows, 0.0)
    diagonal = torch.where(plan.columns > 0, plan.columns / slope_g, 0.0)
    squares = plan.squares(through)
    least = diagonal if squares is None else torch.maximum(diagonal - squares, 1e-3 * diagonal)
    inverse = torch.where(least > 0, 1 / least, 0.0)

    def system(w: Tensor) -> Tensor:
        return diagonal * w - plan.rmatvec(through * plan.matvec(w))

    rhs = torch.where(diagonal > 0, to_g - plan.rmatvec(through * to_f), 0.0)
    goal = 1e2 * torch.finfo(rhs.dtype).eps * (rhs.abs().sum(-1) + to_f.abs().sum(-1) + to_g.abs().sum(-1))
    going = torch.ones_like(goal, dtype=torch.bool)
    w, _ = conjugate_gradients(system, inverse.mul, rhs, goal, going, limit=STEPS, check_every=10)
    return to_f - plan.matvec(w) + own_f, diagonal * w + own_g
