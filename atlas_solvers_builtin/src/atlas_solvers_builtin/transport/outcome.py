"""What an iteration hands to the solution, and what is said of one that did not arrive."""

from __future__ import annotations

import math
import sys
import time
import warnings

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Kernel
from atlas_solvers_builtin.transport.problem import Problem
from atlas_solvers_builtin.transport.returned import errors_of, returned
from atlas_solvers_builtin.transport.solution import EntropicPlan

SAFE_DIGITS = 8
"""Rounding errors that a marginal is taken to gather, in units of the dtype's."""
SUMS = 4
"""Units of the dtype that sums are rounded by at any ε: no smaller tolerance can be counted on."""


@attrs.define(eq=False)
class Outcome:
    """Potentials, with the marginals of their plan, why each problem stopped, and what it took."""

    f: Tensor
    g: Tensor
    marginals: tuple[Tensor, Tensor]
    reasons: tuple[str, ...]
    history: list[float]
    iterations: int
    matvecs: int


@attrs.frozen(eq=False)
class Meter:
    """Seconds and bytes since it was made; bytes are None where the system does not tell, as on Windows."""

    device: torch.device
    began: float = attrs.field(factory=time.perf_counter, init=False)
    before: int | None = attrs.field(init=False)

    @before.default
    def _before(self) -> int | None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return torch.cuda.memory_allocated(self.device)
        return _resident_peak()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    @property
    def peak_bytes(self) -> int | None:
        now = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else _resident_peak()
        return None if now is None or self.before is None else now - self.before


def _resident_peak() -> int | None:
    """Most resident memory that this process has had so far, in bytes; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows has no such module
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def smallest_epsilon(problem: Problem, f: Tensor, g: Tensor, tolerance: float) -> Tensor:
    """The least ε, (*batch,), at which rounding of the potentials alone leaves the tolerance within reach."""
    size = torch.maximum(f.abs().amax(-1), g.abs().amax(-1))
    return SAFE_DIGITS * torch.finfo(problem.operator.dtype).eps * size / tolerance


def warn(
    solution: EntropicPlan, *, tolerance: float, method: str, stacklevel: int, accelerated: tuple[str, ...] = ()
) -> None:
    """Say once what did not converge and what to try; nothing if all is well.

    `accelerated`: the settings that would have to go for an iteration that is sure to converge.
    """
    if bool(solution.converged.all()):
        return
    count, total = int((~solution.converged).sum()), solution.converged.numel()
    problem = solution.problem
    worst = float((solution.marginal_error / problem.mass).max())
    epsilon = float(solution.epsilon.min())
    better = "" if method == "newton" else "method = 'newton', or "
    advice = {
        "non-finite": "a kernel that is zero everywhere in a row leaves nowhere to go: widen it",
        "stalled": _of_stalled(solution, tolerance, worst),
        "max-iterations": f"{better}raise max_iterations, or epsilon",
    }
    safe = float(smallest_epsilon(problem, solution.f, solution.g, tolerance).max())
    if accelerated and worst > 10 * max(tolerance, tolerance * safe / epsilon):  # more than rounding leaves
        leave_out = f"{' and '.join(accelerated)} may keep it from converging: leave that out, or method = 'newton'"
        advice |= dict.fromkeys(("non-finite", "stalled", "max-iterations"), leave_out)
    reasons = [reason for reason in advice if reason in solution.status]
    said = dict.fromkeys(advice[reason] for reason in reasons)
    warnings.warn(
        f"sinkhorn: {count} of {total} problem(s) not solved ({', '.join(reasons)}) after {solution.iterations} "
        f"iterations: marginal error {worst:.1e}, tolerance {tolerance:.1e}, epsilon {epsilon:.3g}. "
        f"Next: {'; '.join(said)}.",
        RuntimeWarning,
        stacklevel=stacklevel,
    )


def _of_stalled(solution: EntropicPlan, tolerance: float, worst: float) -> str:
    """What to do about errors that fall no further, `worst` of the mass."""
    problem = solution.problem
    dtype, within_reach = problem.operator.dtype, f"a tolerance of {2 * worst:.1g}"
    precision = "" if dtype == torch.float64 else "use float64, or "
    floor = SUMS * torch.finfo(dtype).eps
    if tolerance < floor and worst < 10 * floor:
        name = str(dtype).removeprefix("torch.")
        return f"the tolerance is below what {name} sums to, at any epsilon: {precision}{within_reach}"
    safe, epsilon = smallest_epsilon(problem, solution.f, solution.g, tolerance), solution.epsilon
    # Below the floor no ε is safe for this tolerance.
    larger = (
        f"an epsilon of at least {float(safe.max()):.2g}"
        if tolerance >= floor and bool((safe > epsilon).any())
        else "a larger epsilon"
    )
    return f"errors fall no further, by rounding or for points too far apart: {precision}{within_reach}, or {larger}"


def plan_of(
    attached: Problem, outcome: Outcome, tolerance: float, meter: Meter, *, y: Tensor | None, kernel: Kernel | None
) -> EntropicPlan:
    """The solution of a problem, which may have a graph, at the potentials of an iteration."""
    problem = attached.detach()
    with torch.no_grad():
        f, g, (rows, columns), products = returned(problem, outcome.f, outcome.g, outcome.marginals)
    row_error, column_error = errors_of(problem, (rows, columns))
    error = torch.maximum(row_error, column_error)
    relative = (error / problem.mass).flatten().tolist()
    status = tuple(_final(s, e, tolerance) for s, e in zip(outcome.reasons, relative, strict=True))
    return EntropicPlan(
        f=f,
        g=g,
        value=_value(attached, f, g, (rows, columns)),
        marginals=(rows, columns),
        marginal_error=error,
        marginal_errors=(row_error, column_error),
        gap=((rows - problem.a) * f).sum(-1) + ((columns - problem.b) * g).sum(-1),
        status=status,
        converged=torch.tensor([s == "converged" for s in status], device=f.device).reshape(error.shape),
        iterations=outcome.iterations,
        matvecs=outcome.matvecs + products,
        history=outcome.history,
        seconds=meter.seconds,
        peak_bytes=meter.peak_bytes,
        problem=attached,
        y=y,
        kernel=kernel,
    )


def _final(status: str, error: float, tolerance: float) -> str:
    """The status of the plan as returned, which rounding may have left short of what the iteration saw."""
    if not math.isfinite(error):
        return "non-finite"
    if error <= tolerance:
        return "converged"
    return "stalled" if status == "converged" else status


def _value(attached: Problem, f: Tensor, g: Tensor, marginals: tuple[Tensor, Tensor]) -> Tensor:
    """The dual objective ⟨a, f⟩ + ⟨b, g⟩ − ε (Σ_ij P_ij − Σ a Σ b), with the graph of a, b, ε, and of C.

    f and g are optimal, so that their own derivatives vanish and they are taken as constants (Danskin 1967).
    """
    a, b, epsilon = attached.a, attached.b, attached.epsilon
    fixed_a, fixed_b = a.detach(), b.detach()
    # Where a weight is 0, the ratio is that of a point with hardly any weight: 1, by the c-transform.
    row_ratios, column_ratios = (
        torch.where(weights > 0, found / weights, 1.0)
        for found, weights in zip(marginals, (fixed_a, fixed_b), strict=True)
    )
    mass = marginals[0].sum(-1)
    if _has_graph(attached):
        # The one product that carries a graph: of x and y through the operator, and of ε. In the mass the weights are
        # constants, for the sake of zeros; its derivatives by them stand beside it.
        ratios = (attached.over(f) + attached.operator.log_matvec(attached.right(g))).exp()
        mass = torch.where(fixed_a > 0, fixed_a * ratios, 0.0).sum(-1)
    mass = mass + ((a - fixed_a) * row_ratios).sum(-1) + ((b - fixed_b) * column_ratios).sum(-1)
    return (a * f).sum(-1) + (b * g).sum(-1) - epsilon * (mass - a.sum(-1) * b.sum(-1))


def _has_graph(attached: Problem) -> bool:
    """Whether the operator may depend on something that wants a gradient: ours tell, of others a product will."""
    if not torch.is_grad_enabled():
        return False
    tells = getattr(attached.operator, "carries_graph", None)
    return tells is None or bool(tells())
