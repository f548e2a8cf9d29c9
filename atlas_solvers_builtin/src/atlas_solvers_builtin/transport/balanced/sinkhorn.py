"""Entropic transport: ε-scaling, Sinkhorn sweeps on the absorbed kernel, Newton's method on the semi-dual."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from atlas_kernels_builtin.operators import operator_of
from torch import Tensor

from atlas_core.contracts import Kernel, KernelOperator
from atlas_solvers_builtin.transport.balanced.log_domain import solve_in_logarithms
from atlas_solvers_builtin.transport.balanced.parts import begin
from atlas_solvers_builtin.transport.balanced.progress import REASONS, STALLED, Pace
from atlas_solvers_builtin.transport.balanced.rounds import solve_rounds
from atlas_solvers_builtin.transport.inputs_as_solved import as_solved
from atlas_solvers_builtin.transport.outcome import Meter, Outcome, plan_of, warn
from atlas_solvers_builtin.transport.problem import (
    PROBED_ROWS,
    Problem,
    check_epsilon,
    check_same_epsilon,
    mean_cost,
    problem_of,
)
from atlas_solvers_builtin.transport.settings import (
    default_epsilon,
    epsilon_field,
    fitted_kernel,
    kernel_field,
    max_iterations_field,
    mean_cost_of,
    tolerance_field,
)
from atlas_solvers_builtin.transport.solution import EntropicPlan
from atlas_solvers_builtin.transport.start import start_of
from atlas_solvers_builtin.transport.uncompiled import uncompiled

STORAGE = {"float32": torch.float32, "float64": torch.float64}


@attrs.frozen
class Sinkhorn:
    """Couple two sets of points at the least cost, smoothed by entropy.

    Minimises ⟨P, C⟩ + ε KL(P | a ⊗ b) over plans P with marginals a and b, with the kernel's cost C = −log k: for
    `gaussian`, |x − y|² / (2h²). By default: sweeps at a large ε, which falls to the one asked for; then Newton's
    method on the semi-dual by conjugate gradients, on a kernel stored in float32 around the potentials, until the
    marginals, summed in the precision of the input, are within `tolerance`. To run out of iterations is a status and a
    warning, not an exception.
    """

    paper = (
        "Cuturi 2013; absorption and ε-scaling, Schmitzer 2019; Newton on the dual, Brauer et al. 2017, "
        "here on the semi-dual with a preconditioned Schur complement"
    )

    kernel: Kernel = kernel_field()
    epsilon: float | None = epsilon_field()
    tolerance: float = tolerance_field(1e-4)
    max_iterations: int = max_iterations_field(
        10_000, "Sweeps and steps of conjugate gradients, two products each, after which a round is the last."
    )
    method: str = attrs.field(
        default="newton",
        validator=attrs.validators.in_(("newton", "sinkhorn", "log")),
        metadata={"help": "newton; sinkhorn: sweeps alone, on the absorbed kernel; log: sweeps in the log domain."},
    )
    scaling: float = attrs.field(
        default=4.0,
        validator=attrs.validators.ge(1),
        metadata={"help": "Factor by which ε falls from stage to stage; 1: start at the ε asked for. Not for log."},
    )
    storage: str = attrs.field(
        default="auto",
        validator=attrs.validators.in_(("auto", *STORAGE)),
        metadata={"help": "Precision the kernel is stored in; auto: float32, and float64 if that stalls. Not for log."},
    )
    parts: bool = attrs.field(
        default=True,
        metadata={"help": "Solve what is streamed on a quarter of its points first, from 8192 points on. Not for log."},
    )
    anderson: int = attrs.field(
        default=0,
        validator=attrs.validators.ge(0),
        metadata={"help": "Iterates that Anderson's acceleration combines; 0: none. For method log."},
    )
    relaxation: float = attrs.field(
        default=1.0,
        validator=[attrs.validators.gt(0), attrs.validators.lt(2)],
        metadata={"help": "Over-relaxation: how much of its step each potential moves. For method log."},
    )
    check_every: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.gt(0)),
        metadata={"help": "Iterations between two looks of the host; unset: 1 on a CPU, else 10."},
    )

    def __attrs_post_init__(self) -> None:
        if self.method != "log" and (self.anderson or self.relaxation != 1):
            name = "anderson" if self.anderson else "relaxation"
            raise ValueError(f"{name} has no effect with method = {self.method!r}: set method = 'log', or leave it out")
        if self.method == "log" and (self.storage != "auto" or self.scaling != 4):
            name = "scaling" if self.storage == "auto" else "storage"
            raise ValueError(f"{name} has no effect with method = 'log': leave it out, or set method = 'newton'")

    @uncompiled
    def solve(
        self, x: Tensor, y: Tensor, *, a: Tensor | None = None, b: Tensor | None = None, init: Any = None
    ) -> EntropicPlan:
        """Couple x (*batch, n, d) with weights a (n,) or (*batch, n), and y (*batch, m, d) with b; uniform where None.

        `init` is a solution, or its (f, g), to start from. Raises ValueError for input that cannot be meant.
        """
        kernel = fitted_kernel(self.kernel, x, y, a, b)
        epsilon: float | Tensor | None = self.epsilon
        if epsilon is None:
            epsilon = default_epsilon(mean_cost_of(kernel, x, y, a, b))
        operator = operator_of(kernel, x, y, epsilon=epsilon)
        plan = self._solve(operator, a, b, init, y, kernel)
        return attrs.evolve(plan, inputs=as_solved(x, y, a, b, value=plan.value))

    @uncompiled
    def solve_operator(
        self,
        operator: KernelOperator,
        *,
        a: Tensor | None = None,
        b: Tensor | None = None,
        init: Any = None,
        y: Tensor | None = None,
    ) -> EntropicPlan:
        """The same for a given operator, whose own ε holds; y (*batch, m, d) is needed by `barycentric_map` alone.

        Raises ValueError where the solver's epsilon is set, and is another one.
        """
        check_same_epsilon(self.epsilon, operator)
        plan = self._solve(operator, a, b, init, y, None)
        return attrs.evolve(plan, inputs=as_solved(y, a, b, value=plan.value))

    def _solve(
        self,
        operator: KernelOperator,
        a: Tensor | None,
        b: Tensor | None,
        init: Any,
        y: Tensor | None,
        kernel: Kernel | None,
    ) -> EntropicPlan:
        meter = Meter(operator.device)
        attached = problem_of(operator, a, b)
        problem = attached.detach()
        mean = mean_cost(problem, rows=PROBED_ROWS)
        check_epsilon(problem, mean)
        first = start_of(problem, init)
        with torch.no_grad():
            if self.method == "log":
                outcome = self._in_logarithms(problem, first)
            else:
                outcome = self._in_rounds(problem, first, mean, warm=init is not None)
        solution = plan_of(attached, outcome, self.tolerance, meter, y=y, kernel=kernel)
        settings = (("relaxation", self.relaxation, 1), ("anderson", self.anderson, 0))
        accelerated = tuple(f"{name} = {value}" for name, value, without in settings if value != without)
        warn(solution, tolerance=self.tolerance, method=self.method, stacklevel=5, accelerated=accelerated)
        return solution

    def _in_rounds(self, problem: Problem, init: tuple[Tensor, Tensor], mean: Tensor, *, warm: bool) -> Outcome:
        storage = STORAGE.get(self.storage, torch.float32)
        # No stored entry is finer than the input.
        storage = storage if problem.operator.dtype == torch.float64 else problem.operator.dtype
        pace = Pace(
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            newton=self.method == "newton",
            check_every=self._check_every(problem),
            storage=storage,
        )
        ladder, progress = begin(problem, pace, *init, factor=self.scaling, mean=mean, warm=warm, parts=self.parts)
        solve_rounds(problem, ladder, pace, progress)
        if self.storage == "auto" and storage != problem.operator.dtype and progress.resume(STALLED):
            # What float32 entries cannot tell apart, float64 ones may.
            solve_rounds(problem, ladder, attrs.evolve(pace, storage=problem.operator.dtype), progress)
        reasons = tuple(REASONS[i] for i in progress.reason.flatten().tolist())
        return Outcome(
            progress.best_f,
            progress.best_g,
            (progress.rows, progress.columns),
            reasons,
            progress.history,
            int(progress.spent.max()),
            progress.matvecs,
        )

    def _in_logarithms(self, problem: Problem, init: tuple[Tensor, Tensor]) -> Outcome:
        run = solve_in_logarithms(
            problem,
            init[1],
            tolerance=self.tolerance,
            limit=self.max_iterations,
            check_every=self._check_every(problem),
            relaxation=self.relaxation,
            memory=self.anderson,
        )
        operator, left, right = problem.operator, problem.left(run.f), problem.right(run.g)
        marginals = (left + operator.log_matvec(right)).exp(), (right + operator.log_rmatvec(left)).exp()
        reasons = tuple(REASONS[i] for i in run.reason.flatten().tolist())
        return Outcome(run.f, run.g, marginals, reasons, run.history, run.iterations, run.matvecs + 2)

    def _check_every(self, problem: Problem) -> int:
        if self.check_every is not None:
            return self.check_every
        return 1 if problem.operator.device.type == "cpu" else 10
