"""Potentials as a solution returns them, and the marginals of their plan."""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_solvers_builtin.transport.balanced.absorbed import around
from atlas_solvers_builtin.transport.problem import Problem

FAR = 0.5
"""Marginal error, as a share of the mass, from which c-transforms may bring potentials nearer."""


def returned(
    problem: Problem, f: Tensor, g: Tensor, marginals: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], int]:
    """f (*batch, n) and g (*batch, m) of an iteration, whose plan has these marginals, with ⟨a, f⟩ = ⟨b, g⟩.

    Potentials that were left at a larger ε say nothing about the plan at the problem's own: those far off end with
    c-transforms. Also return the marginals as they are then, and how many products that took.
    """
    f, g, marginals, products = _nearer(problem, f, g, marginals)
    f, g = problem.balanced(f, g)
    # A point without weight has no say in the iteration; its potential is the c-transform.
    if not bool((problem.a > 0).all()):
        f, products = torch.where(problem.a > 0, f, problem.c_transform(g)), products + 1
    if not bool((problem.b > 0).all()):
        g, products = torch.where(problem.b > 0, g, problem.c_transform_transposed(f)), products + 1
    if problem.operator.dtype != torch.float64:
        # A coarser dtype rounds what the potentials are moved by to more than a tolerance may allow.
        marginals, products = marginals_of(problem, f, g), products + 2
    return f, g, marginals, products


def marginals_of(problem: Problem, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column sums of the plan of f and g: two products."""
    plan = around(problem, f, g, storage=problem.operator.dtype, drop=0.0)
    return plan.rows, plan.columns


def errors_of(problem: Problem, marginals: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(*batch,) each: L1 distances of the two marginals from the weights."""
    rows, columns = marginals
    return (rows - problem.a).abs().sum(-1), (columns - problem.b).abs().sum(-1)


def _nearer(
    problem: Problem, f: Tensor, g: Tensor, marginals: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], int]:
    """The same after a sweep in the log domain, of the problems that are far off and that it brings nearer.

    Its rows are exact, so that the columns are off by twice the mass at most.
    """
    error = torch.maximum(*errors_of(problem, marginals)) / problem.mass
    near = error <= FAR
    if bool(near.all()):
        return f, g, marginals, 0
    swept_g = problem.c_transform_transposed(f)
    swept_f = problem.c_transform(swept_g)
    swept = marginals_of(problem, swept_f, swept_g)
    after = torch.maximum(*errors_of(problem, swept)) / problem.mass
    better = ~near & after.isfinite() & ~(after >= error)
    wide = better[..., None]
    rows, columns = (torch.where(wide, new, old) for new, old in zip(swept, marginals, strict=True))
    return torch.where(wide, swept_f, f), torch.where(wide, swept_g, g), (rows, columns), 4
