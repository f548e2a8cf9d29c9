"""The plan of an unbalanced solve, measured: what it is short of, and what it is worth."""

from __future__ import annotations

import warnings

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Kernel
from atlas_solvers_builtin.transport.outcome import Meter
from atlas_solvers_builtin.transport.problem import Problem
from atlas_solvers_builtin.transport.solution import EntropicPlan
from atlas_solvers_builtin.transport.unbalanced.implicit import attached_potentials
from atlas_solvers_builtin.transport.unbalanced.penalties import Balanced, Penalty, TotalVariation
from atlas_solvers_builtin.transport.unbalanced.proximal import Sweeps, Swept, row_error


@attrs.frozen(eq=False, slots=False)
class UnbalancedPlan(EntropicPlan):
    """Carry mass along P_ij = a_i b_j exp((f_i + g_j − C_ij) / ε), of which the marginals are not a and b.

    `value` is ⟨P, C⟩ + ε KL(P | a ⊗ b) + ρ_a D(P 1 | a) + ρ_b D(Pᵀ 1 | b), as the dual objective; `marginal_errors` are
    the L1 distances of the marginals from those that f and g want, which is 0 for the best f and g alone; `gap` is the
    primal objective less the dual one, 0 or more where no side is balanced.
    """

    penalties: tuple[Penalty, Penalty] = attrs.field(kw_only=True, repr=False)
    """What the two marginals pay."""

    def potentials(self) -> tuple[Tensor, Tensor]:
        """f and g with the graph of x, y, a, b and ε, by implicit differentiation; at fixed prices ρ.

        First derivatives only. Raises ValueError for total variation: its potentials have kinks, and no derivative.
        """
        if any(isinstance(penalty, TotalVariation) for penalty in self.penalties):
            raise ValueError(
                "potentials under total variation have kinks, and no graph: use `value`, which is differentiable, or "
                "marginals = 'kl'"
            )
        if all(isinstance(penalty, Balanced) for penalty in self.penalties):
            return super().potentials()
        self.inputs.check()
        return attached_potentials(self.problem, self.penalties, self.f, self.g)


def measured(
    attached: Problem,
    penalties: tuple[Penalty, Penalty],
    swept: Swept,
    tolerance: float,
    meter: Meter,
    *,
    y: Tensor | None,
    kernel: Kernel | None,
) -> UnbalancedPlan:
    """The solution of a problem, which may have a graph, at the potentials that were swept to."""
    problem, potentials = attached.detach(), (swept.f, swept.g)
    # The one product that may carry a graph: of x and y through the operator, and of ε.
    rows = attached.operator.log_matvec(attached.right(swept.g))
    with torch.no_grad():
        logs = (
            problem.over(swept.f) + rows,
            problem.over(swept.g) + problem.operator.log_rmatvec(problem.left(swept.f)),
        )
        sides = list(zip((problem.a, problem.b), penalties, potentials, logs, strict=True))
        errors = [row_error(*side) for side in sides]
        gap = torch.stack([_slack(*side) for side in sides]).sum(0)
        ratios = logs[0].exp(), logs[1].exp()
        error = torch.maximum(*errors)
    relative = error / Sweeps(problem, penalties, tolerance).scale
    status = swept.status(relative, tolerance)
    return UnbalancedPlan(
        f=swept.f,
        g=swept.g,
        value=_value(attached, penalties, potentials, rows, ratios),
        marginals=(problem.a * ratios[0], problem.b * ratios[1]),
        marginal_error=error,
        marginal_errors=(errors[0], errors[1]),
        gap=gap,
        status=status,
        converged=torch.tensor([s == "converged" for s in status], device=error.device).reshape(error.shape),
        iterations=swept.iterations,
        matvecs=swept.matvecs + 2,
        history=swept.history,
        seconds=meter.seconds,
        peak_bytes=meter.peak_bytes,
        problem=attached,
        y=y,
        kernel=kernel,
        penalties=penalties,
    )


def _slack(weights: Tensor, penalty: Penalty, potential: Tensor, log_ratio: Tensor) -> Tensor:
    """⟨p, f⟩ − Σ a gain(f) + ρ D(p | a), (*batch,): the Fenchel–Young gap of one marginal p = a exp(log_ratio)."""
    ratio = log_ratio.exp()
    each = ratio * potential - penalty.gain(potential) + penalty.price(ratio)
    return torch.where(weights > 0, weights * each, 0.0).sum(-1)


def _value(
    attached: Problem,
    penalties: tuple[Penalty, Penalty],
    potentials: tuple[Tensor, Tensor],
    rows: Tensor,
    ratios: tuple[Tensor, Tensor],
) -> Tensor:
    """The dual objective Σ a gain(f) + Σ b gain(g) − ε (Σ P − Σ a Σ b), with the graph of a, b, ε, and of C in `rows`.

    f and g are optimal, so that their own derivatives vanish and they are taken as constants (Danskin 1967).
    """
    a, b = attached.a, attached.b
    gains = [penalty.gain(potential) for penalty, potential in zip(penalties, potentials, strict=True)]
    # In the mass the weights are constants, for the sake of zeros; its derivatives by them stand beside it.
    fixed = a.detach()
    mass = torch.where(fixed > 0, fixed * (attached.over(potentials[0]) + rows).exp(), 0.0).sum(-1)
    mass = mass + ((a - fixed) * ratios[0]).sum(-1) + ((b - b.detach()) * ratios[1]).sum(-1)
    return (a * gains[0]).sum(-1) + (b * gains[1]).sum(-1) - attached.epsilon * (mass - a.sum(-1) * b.sum(-1))


def warn(solution: UnbalancedPlan, tolerance: float, *, stacklevel: int) -> None:
    """Say once what did not converge and what to try; nothing if all is well."""
    if bool(solution.converged.all()):
        return
    advice = {
        "non-finite": "a kernel that is zero everywhere in a row leaves nowhere to go: widen it",
        "stalled": "rounding allows no better: use float64, or a larger epsilon or tolerance",
        "max-iterations": "raise max_iterations, or epsilon",
    }
    reasons = [reason for reason in advice if reason in solution.status]
    mass = (solution.problem.a.detach().sum(-1) + solution.problem.b.detach().sum(-1)) / 2
    warnings.warn(
        f"sinkhorn-unbalanced: {int((~solution.converged).sum())} of {len(solution.status)} problem(s) not solved "
        f"({', '.join(reasons)}) after {solution.iterations} iterations: residual "
        f"{float((solution.marginal_error / mass).max()):.1e}, tolerance {tolerance:.1e}, epsilon "
        f"{float(solution.epsilon.min()):.3g}. Next: {'; '.join(advice[reason] for reason in reasons)}.",
        RuntimeWarning,
        stacklevel=stacklevel + 1,
    )
