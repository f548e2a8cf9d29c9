"""Entropic transport of a set to itself, by symmetric updates: one potential, and a rate that ε hardly touches."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_solvers_builtin.transport.problem import Problem
from atlas_solvers_builtin.transport.unbalanced.penalties import Penalty
from atlas_solvers_builtin.transport.unbalanced.proximal import PATIENCE, REASONS, row_error


@attrs.frozen(eq=False)
class SelfTransport:
    """OT_ε(a, a) = Σ 2 a gain(f) − ε (Σ P − (Σ a)²), P_ij = a_i a_j exp((f_i + f_j − C_ij) / ε)."""

    f: Tensor
    """(*batch, n), without a graph."""
    value: Tensor
    """(*batch,), differentiable in x, a and ε by the envelope theorem."""
    marginal_error: Tensor
    """(*batch,): L1 distance of the plan's marginal from that wanted."""
    status: tuple[str, ...]
    iterations: int


def self_transport(attached: Problem, penalty: Penalty, tolerance: float, max_iterations: int) -> SelfTransport:
    """Average f with prox(T f) until it is its own transform (Feydy et al. 2019, eq. 25).

    The plain iteration flips the sign of the error in modes that P keeps; its average with the identity halves it,
    where P has no negative eigenvalues, as for all kernels that are positive definite.
    """
    problem = attached.detach()
    with torch.no_grad():
        f = torch.zeros_like(problem.a)
        reason = torch.zeros_like(problem.mass, dtype=torch.int64)
        best, since, iterations = torch.full_like(problem.mass, torch.inf), reason.clone(), 0
        while iterations < max_iterations and not bool((reason > 0).all()):
            t = problem.c_transform(f)
            error = row_error(problem.a, penalty, f, problem.over(f - t)) / problem.mass
            since, best = torch.where(error < best, 0, since + 1), torch.minimum(best, error)
            now = torch.where(since >= PATIENCE, REASONS.index("stalled"), 0)
            now = torch.where(error <= tolerance, REASONS.index("converged"), now)
            now = torch.where(error.isfinite(), now, REASONS.index("non-finite"))
            reason = torch.where(reason > 0, reason, now)
            f = torch.where((reason > 0)[..., None], f, (f + penalty.prox(t, problem.epsilon)) / 2)
            iterations += 1
    rows = attached.operator.log_matvec(attached.right(f))
    with torch.no_grad():
        error = row_error(problem.a, penalty, f, problem.over(f) + rows)
    return SelfTransport(
        f=f,
        value=_value(attached, penalty, f, rows),
        marginal_error=error,
        status=tuple(REASONS[i] for i in reason.flatten().tolist()),
        iterations=iterations,
    )


def _value(attached: Problem, penalty: Penalty, f: Tensor, rows: Tensor) -> Tensor:
    """The dual objective, with the graph of a on both sides, of ε, and of C in `rows`."""
    a, fixed = attached.a, attached.a.detach()
    ratios = (attached.over(f) + rows).exp()
    mass = torch.where(fixed > 0, fixed * ratios, 0.0).sum(-1) + 2 * ((a - fixed) * ratios.detach()).sum(-1)
    return 2 * (a * penalty.gain(f)).sum(-1) - attached.epsilon * (mass - a.sum(-1).square())
