"""Barycenters on a fixed support, by iterative Bregman projections in the log domain."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import KernelOperator
from atlas_solvers_builtin.transport.barycenters.barycenter_plan import BarycenterPlan
from atlas_solvers_builtin.transport.outcome import Meter, Outcome, plan_of
from atlas_solvers_builtin.transport.problem import problem_of

COARSE_FACTOR, COARSE_STEPS, COARSE_ERROR = 4.0, 50, 1e-2
"""ε falls by that factor, after so many steps or at that error: potentials of a large ε start those of the next."""


@attrs.frozen(eq=False)
class Targets:
    """The inputs of a barycenter."""

    operator: KernelOperator
    """K_k, from the support to each input: batch shape (k,)."""
    b: Tensor
    """(k, m)."""
    shares: Tensor
    """(k,)."""
    own: KernelOperator | None
    """K within the support; given, the barycenter is debiased."""

    def at(self, epsilon: float) -> Targets:
        own = None if self.own is None else self.own.with_epsilon(epsilon)  # type: ignore[attr-defined]
        return attrs.evolve(self, operator=self.operator.with_epsilon(epsilon), own=own)  # type: ignore[attr-defined]


@attrs.frozen(eq=False)
class Scalings:
    """P_k = diag(u_k) K_k diag(v_k), as logarithms; rows of all plans sum to one `log_weights`."""

    log_u: Tensor
    """(k, n)."""
    log_v: Tensor
    """(k, m)."""
    log_weights: Tensor
    """log a, (n,)."""
    log_debias: Tensor
    """log d, (n,), of Janati et al. 2020; 0 without debiasing."""
    error: float
    """The largest L1 error of a column marginal, as a share of the mass; also of the plan within the support."""


@torch.no_grad()
def project(targets: Targets, *, tolerance: float, limit: int, init: Any, y: Tensor | None) -> BarycenterPlan:
    """Iterate until the columns are right to `tolerance`; the rows always are."""
    meter = Meter(targets.operator.device)
    operator, epsilon = targets.operator, _number(targets.operator.epsilon)
    n = operator.shape[0]
    scalings = _descend(targets, epsilon) if init is None else _from_plan(targets, init)
    history: list[float] = []
    status = "max-iterations"
    for _ in range(limit):
        scalings = step(targets, scalings)
        history.append(scalings.error)
        if not math.isfinite(scalings.error):
            status = "non-finite"
            break
        if scalings.error <= tolerance:
            status = "converged"
            break
    mass = targets.b.sum(-1)[0]
    # The sum of a is that of the plans' columns, so that it is off by their error.
    shift = mass.log() - scalings.log_weights.logsumexp(0)
    weights = (scalings.log_weights + shift).exp()
    problem = problem_of(operator, weights.expand(len(targets.b), n), targets.b)
    f = epsilon * (scalings.log_u - scalings.log_weights)
    g = epsilon * (-operator.log_rmatvec(scalings.log_u + shift))
    rows = (problem.left(f) + operator.log_matvec(problem.right(g))).exp()
    columns = (problem.right(g) + operator.log_rmatvec(problem.left(f))).exp()
    outcome = Outcome(f, g, (rows, columns), (status,) * len(targets.b), history, len(history), 2 * len(history) + 3)
    couplings = plan_of(problem, outcome, 2 * tolerance, meter, y=y, kernel=None)
    error = float((couplings.marginal_error / mass).max())
    return BarycenterPlan(
        weights=weights,
        points=None,
        couplings=couplings,
        shares=targets.shares,
        value=(targets.shares * couplings.value).sum(),
        status=status,
        marginal_error=error,
        iterations=len(history),
        history=history,
        seconds=meter.seconds,
    )


def step(targets: Targets, scalings: Scalings) -> Scalings:
    """One projection on the columns of all plans, and one on their common rows."""
    sums = targets.operator.log_rmatvec(scalings.log_u)
    columns = (scalings.log_v + sums).exp()
    error = (columns - targets.b).abs().sum(-1).max() / targets.b[0].sum()
    log_v = targets.b.log() - sums
    log_rows = targets.operator.log_matvec(log_v)
    log_weights = (targets.shares[:, None] * log_rows).sum(0) + scalings.log_debias
    log_debias = scalings.log_debias
    if targets.own is not None:
        own_sums = targets.own.log_matvec(log_debias)
        # At the optimum diag(d) K diag(d) is the plan of the barycenter with itself.
        own_error = ((log_debias + own_sums).exp() - log_weights.exp()).abs().sum() / targets.b[0].sum()
        error = torch.maximum(error, own_error)
        # Janati et al. 2020, alg. 1, line 6: d ← √(d a / K d).
        log_debias = (log_debias + log_weights - own_sums) / 2
    return Scalings(log_weights - log_rows, log_v, log_weights, log_debias, float(error))


def _descend(targets: Targets, epsilon: float) -> Scalings:
    """Scalings to start from: those of a large ε, which a few steps find, then of smaller ones."""
    k, (n, m) = len(targets.b), targets.operator.shape
    zero = targets.b.new_zeros
    f, g, debias = zero(k, n), zero(k, m), zero(n)
    stage = epsilon
    if hasattr(targets.operator, "with_epsilon"):
        spread = -epsilon * targets.operator.log_rows(torch.arange(0, n, max(1, n // 64), device=f.device))
        typical = float(torch.where(spread.isfinite(), spread, 0.0).mean()) / 2
        stage = epsilon * COARSE_FACTOR ** max(0, math.ceil(math.log(max(typical / epsilon, 1e-9), COARSE_FACTOR)))
    while True:
        at = targets.at(stage) if stage > epsilon else targets
        scalings = Scalings(f / stage, at.b.log() + g / stage, zero(n), debias / stage, math.inf)
        if stage <= epsilon:
            return scalings
        for _ in range(COARSE_STEPS):
            scalings = step(at, scalings)
            if scalings.error <= COARSE_ERROR:
                break
        f, g, debias = (
            stage * scalings.log_u,
            stage * (scalings.log_v - at.b.log()).nan_to_num(),
            stage * scalings.log_debias,
        )
        stage = max(epsilon, stage / COARSE_FACTOR)


def _from_plan(targets: Targets, init: Any) -> Scalings:
    n = targets.operator.shape[0]
    if not isinstance(init, BarycenterPlan) or (init.couplings.f.shape, init.couplings.g.shape) != (
        (len(targets.b), n),
        targets.b.shape,
    ):
        raise ValueError("init must be a BarycenterPlan of a problem of the same shape")
    epsilon = _number(targets.operator.epsilon)
    log_weights = init.weights.log()
    log_u = init.couplings.f / epsilon + log_weights
    log_v = targets.b.log() + init.couplings.g / epsilon
    debias = torch.zeros_like(log_weights)
    if targets.own is not None:
        for _ in range(COARSE_STEPS):
            debias = (debias + log_weights - targets.own.log_matvec(debias)) / 2
    return Scalings(log_u, log_v, log_weights, debias, math.inf)


def _number(epsilon: float | Tensor) -> float:
    if isinstance(epsilon, Tensor) and epsilon.numel() > 1 and bool((epsilon != epsilon.flatten()[0]).any()):
        raise ValueError(f"a barycenter has one epsilon for all inputs, not {epsilon.tolist()}")
    return float(epsilon.flatten()[0]) if isinstance(epsilon, Tensor) else float(epsilon)
