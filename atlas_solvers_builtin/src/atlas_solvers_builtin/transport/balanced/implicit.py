"""Derivatives of the potentials themselves, by the implicit function theorem: one linear solve, no unrolled loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from atlas_solvers_builtin.transport.balanced.absorbed import around, signed_product
from atlas_solvers_builtin.transport.balanced.newton import schur
from atlas_solvers_builtin.transport.balanced.sweeps import Local
from atlas_solvers_builtin.transport.conjugate_gradients import conjugate_gradients
from atlas_solvers_builtin.transport.problem import Problem

STEPS = 5000
"""Steps of conjugate gradients in a backward pass, at most."""


def attached_potentials(problem: Problem, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """f and g with the graph of the problem's operator, weights and ε, with ⟨a, f⟩ = ⟨b, g⟩.

    At the optimum f = F(g, θ) and g = G(f, θ), the c-transforms. So df + Π dg = ∂F and Q df + dg = ∂G, with Π and Q the
    plan with its rows, and columns, divided by their sums: ∂F and ∂G are one product with a graph each, and the linear
    system is solved in the backward pass.
    """
    epsilon = problem.epsilon[..., None]
    moved_f = -epsilon * problem.operator.log_matvec(problem.attached_right(g))
    moved_g = -epsilon * problem.operator.log_rmatvec(problem.attached_left(f))
    if not (moved_f.requires_grad or moved_g.requires_grad):
        return f, g
    return problem.balanced(*_Implicit.apply(moved_f, moved_g, problem.detach(), f, g))


class _Implicit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, moved_f: Tensor, moved_g: Tensor, problem: Problem, f: Tensor, g: Tensor) -> Any:
        ctx.problem = problem
        ctx.save_for_backward(f, g)
        return f.clone(), g.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, to_f: Tensor, to_g: Tensor) -> tuple[Tensor | None, ...]:
        f, g = ctx.saved_tensors
        return (*_adjoint(ctx.problem, f, g, to_f, to_g), None, None, None)


def _adjoint(problem: Problem, f: Tensor, g: Tensor, to_f: Tensor, to_g: Tensor) -> tuple[Tensor, Tensor]:
    """Solve (α + Qᵀβ, Πᵀα + β) = (to_f, to_g), given that both sum to the same.

    With P = diag(r) Π = Q' diag(c) it is symmetric; α is eliminated, and what is left is S, as in a Newton step.
    A point without weight sends its share to the others and takes no part.
    """
    a, b = problem.a, problem.b
    plan = around(problem, f, g, storage=problem.operator.dtype, drop=0.0)
    local = Local(plan, problem, torch.zeros_like(problem.mass))
    at = local.start()
    own_f, own_g = torch.where(a > 0, 0.0, to_f), torch.where(b > 0, 0.0, to_g)
    to_f, to_g = to_f - own_f, to_g - own_g
    if bool((own_f != 0).any() | (own_g != 0).any()):
        operator, left, right = problem.operator, problem.left(f), problem.right(g)
        to_g = to_g - signed_product(operator.log_rmatvec, right, -operator.log_matvec(right), own_f)
        to_f = to_f - signed_product(operator.log_matvec, left, -operator.log_rmatvec(left), own_g)
    share = torch.where(a > 0, to_f / a, 0.0)
    rhs = torch.where(b > 0, to_g - at.v * plan.rmatvec(at.u * share), 0.0)
    # Orthogonal to constants, as S is, but for rounding.
    rhs = rhs - b * (rhs.sum(-1) / problem.mass)[..., None]
    precision = 1e2 * torch.finfo(problem.operator.dtype).eps
    goal = precision * (rhs.abs().sum(-1) + to_f.abs().sum(-1) + to_g.abs().sum(-1))
    system, going = schur(local, at), torch.ones_like(goal, dtype=torch.bool)
    beta, _ = conjugate_gradients(
        system.__matmul__, system.preconditioner.mul, rhs, goal, going, limit=STEPS, check_every=10
    )
    alpha = share - torch.where(a > 0, at.u * plan.matvec(at.v * beta) / a, 0.0)
    return a * alpha + own_f, b * beta + own_g
