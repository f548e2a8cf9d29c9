"""Sinkhorn's algorithm in the log domain: entropic transport that is right at any ε."""

from __future__ import annotations

import math
import time
import warnings
from typing import Any

import attrs
import torch
from atlas_kernels_builtin.streaming import operator_of
from torch import Tensor

from atlas_core import component
from atlas_core.contracts import Kernel, KernelOperator
from atlas_solvers_builtin.transport.problem import Problem, check_points, mean_cost, problem_of
from atlas_solvers_builtin.transport.solution import EntropicPlan

SHARE_OF_MEAN_COST = 0.05
"""The default ε, in units of the mean cost."""
PATIENCE = 100
"""Iterations without a new smallest error after which rounding is to blame: in exact arithmetic it never grows."""


@attrs.frozen
class Sinkhorn:
    """Couple two sets of points at the least cost, smoothed by entropy.

    Minimises ⟨P, C⟩ + ε KL(P | a ⊗ b) over plans P with marginals a and b, with the kernel's cost C = −log k: for
    `gaussian`, |x − y|² / (2h²). Alternates the c-transforms f = −ε log Σ_j b_j exp((g_j − C_ij) / ε) and the same for
    g, until the L1 error of the marginals is below `tolerance`. To run out of iterations is a status and a warning,
    not an exception.
    """

    paper = "Cuturi 2013; in the log domain, Peyré & Cuturi 2019, eq. 4.40–4.43"

    kernel: Kernel = component(
        "kernel", default="atlas-kernels-builtin:gaussian", help="Its −log is the transport cost."
    )
    epsilon: float | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.gt(0)),
        metadata={"help": "Weight of the entropy, in units of the cost; unset: 0.05 × the mean cost of a ⊗ b."},
    )
    tolerance: float = attrs.field(
        default=1e-4,
        validator=attrs.validators.gt(0),
        metadata={"help": "L1 error of the marginals, as a share of the mass, at which the iteration stops."},
    )
    max_iterations: int = attrs.field(
        default=5000, validator=attrs.validators.gt(0), metadata={"help": "Iterations after which it gives up."}
    )

    def solve(
        self, x: Tensor, y: Tensor, *, a: Tensor | None = None, b: Tensor | None = None, init: Any = None
    ) -> EntropicPlan:
        """Couple x (*batch, n, d) with weights a (n,) or (*batch, n), and y (*batch, m, d) with b; uniform where None.

        `init` is a solution, or its (f, g), to start from. Raises ValueError for input that cannot be meant.
        """
        check_points(x=x, y=y)
        epsilon: float | Tensor | None = self.epsilon
        if epsilon is None:
            mean = mean_cost(problem_of(operator_of(self.kernel, x.detach(), y.detach()), a, b))
            # Points that all coincide cost nothing, and any ε is right.
            epsilon = torch.where(mean > 0, SHARE_OF_MEAN_COST * mean, 1.0)
        operator = operator_of(self.kernel, x, y, epsilon=epsilon)
        return attrs.evolve(self.solve_operator(operator, a=a, b=b, init=init, y=y.detach()), kernel=self.kernel)

    def solve_operator(
        self,
        operator: KernelOperator,
        *,
        a: Tensor | None = None,
        b: Tensor | None = None,
        init: Any = None,
        y: Tensor | None = None,
    ) -> EntropicPlan:
        """The same for a given operator, whose own ε holds; y (*batch, m, d) is needed by `barycentric_map` alone."""
        start = time.perf_counter()
        attached = problem_of(operator, a, b)
        problem = attached.detach()
        f, g, status, history = self._iterate(problem, _start(problem, init))
        # The one product that may carry a graph: of x and y through the operator, and of ε.
        rows = operator.log_matvec(attached.right(g))
        ratios, error = _measure(problem, f, g, rows.detach())
        relative = (error / problem.mass).flatten().tolist()
        status = tuple(_final(s, e, self.tolerance) for s, e in zip(status, relative, strict=True))
        solution = EntropicPlan(
            f=f,
            g=g,
            value=_value(attached, f, g, rows, ratios),
            cost=_cost(problem, f, g),
            marginals=(problem.a * ratios[0], problem.b * ratios[1]),
            marginal_error=error,
            status=status,
            converged=torch.tensor([s == "converged" for s in status], device=operator.device).reshape(error.shape),
            iterations=len(history),
            matvecs=2 * len(history) + 3,
            history=history,
            seconds=time.perf_counter() - start,
            problem=problem,
            y=y,
        )
        self._warn(solution)
        return solution

    @torch.no_grad()
    def _iterate(self, problem: Problem, g: Tensor) -> tuple[Tensor, Tensor, tuple[str, ...], list[float]]:
        """Return f, g, why each problem stopped, and the error after each iteration."""
        f = problem.c_transform(g)
        best = torch.full_like(problem.mass, torch.inf)
        since = torch.zeros_like(best, dtype=torch.int64)
        reason = torch.zeros_like(since)  # an index into REASONS
        history: list[float] = []
        for _ in range(self.max_iterations):
            next_g = problem.c_transform_transposed(f)
            next_f = problem.c_transform(next_g)
            # Row i of the plan (f, next_g) sums to a_i exp((f_i − next_f_i) / ε): its error costs no further product.
            excess = torch.where(problem.a > 0, problem.a * torch.expm1(problem.over(f - next_f)).abs(), 0.0)
            error = excess.sum(-1) / problem.mass
            running = reason == 0
            # A problem that has stopped stays as it is: what it returns does not depend on the rest of the batch.
            f, g = (torch.where(running[..., None], new, old) for new, old in ((next_f, f), (next_g, g)))
            history.append(float(error[running].max()))
            since = torch.where(error < best, 0, since + 1)
            best = torch.minimum(best, error)
            now = torch.where(since >= PATIENCE, STALLED, 0)
            now = torch.where(error <= self.tolerance, CONVERGED, now)
            now = torch.where(error.isfinite(), now, NON_FINITE)
            reason = torch.where(running, now, reason)
            if (reason > 0).all():
                break
        return f, g, tuple(REASONS[i] for i in reason.flatten().tolist()), history

    def _warn(self, solution: EntropicPlan) -> None:
        if bool(solution.converged.all()):
            return
        count, total = int((~solution.converged).sum()), solution.converged.numel()
        worst = float((solution.marginal_error / solution.problem.mass).max())
        advice = {
            "non-finite": "a kernel that is zero everywhere in a row leaves nowhere to go: widen it",
            "stalled": "rounding allows no better: use float64, or a larger epsilon",
            "max-iterations": "raise max_iterations, or epsilon",
        }
        reasons = [reason for reason in advice if reason in solution.status]
        epsilon = float(solution.epsilon.min())
        warnings.warn(
            f"sinkhorn: {count} of {total} problem(s) not solved ({', '.join(reasons)}) after {solution.iterations} "
            f"iterations: marginal error {worst:.1e}, tolerance {self.tolerance:.1e}, epsilon {epsilon:.3g}. "
            f"Next: {'; '.join(advice[reason] for reason in reasons)}.",
            RuntimeWarning,
            stacklevel=4,
        )


REASONS = ("max-iterations", "converged", "stalled", "non-finite")
CONVERGED, STALLED, NON_FINITE = 1, 2, 3


def _start(problem: Problem, init: Any) -> Tensor:
    """The g to start from. Raises ValueError for one of another shape."""
    if init is None:
        return torch.zeros_like(problem.b)
    g = init[1] if isinstance(init, tuple) else init.g
    if g.shape != problem.b.shape or not g.isfinite().all():
        raise ValueError(f"init must hold a finite g of shape {tuple(problem.b.shape)}, not {tuple(g.shape)}")
    start: Tensor = g.detach().to(problem.b)
    return start


def _final(status: str, error: float, tolerance: float) -> str:
    """The status of the plan as returned, which rounding may have left short of what the iteration saw."""
    if not math.isfinite(error):
        return "non-finite"
    if error <= tolerance:
        return "converged"
    return "stalled" if status == "converged" else status


@torch.no_grad()
def _measure(problem: Problem, f: Tensor, g: Tensor, rows: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Σ_j P_ij / a_i and Σ_i P_ij / b_j, and the larger L1 error of the marginals.

    `rows` is log Σ_j K_ij b_j exp(g_j / ε). Where a weight is 0, the ratio is that of a point with hardly any weight:
    1 at the optimum.
    """
    row_ratios = (problem.over(f) + rows).exp()
    column_ratios = (problem.over(g) + problem.operator.log_rmatvec(problem.left(f))).exp()
    errors = [
        torch.where(weights > 0, weights * (ratios - 1).abs(), 0.0).sum(-1)
        for weights, ratios in ((problem.a, row_ratios), (problem.b, column_ratios))
    ]
    return (row_ratios, column_ratios), torch.maximum(*errors)


@torch.no_grad()
def _cost(problem: Problem, f: Tensor, g: Tensor) -> Tensor:
    return problem.operator.cost_inner(problem.left(f), problem.right(g))


def _value(problem: Problem, f: Tensor, g: Tensor, rows: Tensor, ratios: tuple[Tensor, Tensor]) -> Tensor:
    """The dual objective ⟨a, f⟩ + ⟨b, g⟩ − ε (Σ_ij P_ij − Σ a Σ b), with the graph of a, b, ε, and of C through `rows`.

    f and g are optimal, so that their own derivatives vanish and they are taken as constants (Danskin 1967).
    """
    a, b, epsilon = problem.a, problem.b, problem.epsilon
    # In the mass the weights are constants, for the sake of zeros; its derivatives by them stand beside it.
    fixed = a.detach()
    mass = torch.where(fixed > 0, fixed * (problem.over(f) + rows).exp(), 0.0).sum(-1)
    mass = mass + ((a - fixed) * ratios[0]).sum(-1) + ((b - b.detach()) * ratios[1]).sum(-1)
    return (a * f).sum(-1) + (b * g).sum(-1) - epsilon * (mass - a.sum(-1) * b.sum(-1))
