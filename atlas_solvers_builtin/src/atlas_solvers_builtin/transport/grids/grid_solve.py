"""Entropic transport between images: solved on a coarse grid first, and then on one twice as fine, and so on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from atlas_kernels_builtin.grids.grid import Grid
from atlas_kernels_builtin.grids.separable import SeparableOperator
from atlas_kernels_builtin.operators import operator_of
from torch import Tensor

from atlas_core.contracts import Kernel, KernelOperator
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn
from atlas_solvers_builtin.transport.grids.grid_dense import dense_ladder, log_kernel_of, solve_dense
from atlas_solvers_builtin.transport.grids.grid_levels import Level, apply_axes, levels_of
from atlas_solvers_builtin.transport.grids.grid_newton import CoarseInverse, Precondition, Solved, State, newton
from atlas_solvers_builtin.transport.inputs_as_solved import as_solved
from atlas_solvers_builtin.transport.outcome import Meter, Outcome, plan_of
from atlas_solvers_builtin.transport.problem import Problem, check_epsilon, check_same_epsilon, problem_of
from atlas_solvers_builtin.transport.settings import default_epsilon, epsilon_field, kernel_field, tolerance_field
from atlas_solvers_builtin.transport.solution import EntropicPlan
from atlas_solvers_builtin.transport.uncompiled import uncompiled

COARSEST = 64
"""Points of the coarsest level, where the ladder of ε starts."""
DIRECT = 256
"""Points of a level whose Newton steps are solved directly."""
SIDE_BY_SIDE = 2**16
"""Points of the problems of a batch that are solved at once: their vectors stay in the cache."""
DENSE = 1024
"""Points of a level whose matrix may be inverted to precondition finer ones."""
ONE_THREAD = 2**17
"""Points that one thread solves faster than two."""
COARSE_TOLERANCE = 1e-2
"""On coarse levels: halving the cells alone changes the plan by more."""
ROUGH = 0.2
"""Before ε falls on."""


@attrs.frozen
class SinkhornGrid:
    """Couple images, volumes or histograms on one regular grid, at the least cost smoothed by entropy.

    The problem of `sinkhorn`, for costs that are a sum over the axes (the kernel `grid` finds out). Potentials of a
    grid of half the resolution, with the ε that it can carry, start those of the next; on each level a few truncated
    Newton steps, preconditioned by a coarse level, do what hundreds of iterations do. Computed in float64, whatever the
    input. Where that does not reach the tolerance, `sinkhorn` goes on from there.

    >>> build("solver", "sinkhorn-grid", epsilon=0.01).solve_images(image, other)
    """

    paper = "Solomon et al. 2015 (products); Brauer et al. 2017 (Newton); Schmitzer 2019 (coarse to fine)"

    kernel: Kernel = kernel_field(
        "Its −log is the transport cost: a kernel `grid`, or for solve_images one of two points."
    )
    epsilon: float | None = epsilon_field()
    tolerance: float = tolerance_field(1e-6)

    def solve_images(self, a: Tensor, b: Tensor, *, init: Any = None) -> EntropicPlan:
        """Couple images a and b, (*batch, *shape) with shape of 1 to 3 dimensions, weights ≥ 0 of equal mass.

        The kernel's units: a kernel that is not `grid` sees square cells and a longest side of 1. Without a kernel
        `grid` there is no telling batches from volumes: all dimensions are then those of one problem. Potentials are
        flattened, (*batch, N). Raises ValueError for images of another shape than the grid's.
        """
        if a.shape != b.shape:
            raise ValueError(f"both images must have one shape, not {tuple(a.shape)} and {tuple(b.shape)}")
        grid: Any = self.kernel if isinstance(self.kernel, Grid) else Grid(tuple(a.shape), kernel=self.kernel)
        dims = len(grid.shape)
        operator = grid.operator(like=a, epsilon=1.0)
        weights = [image.flatten(-dims) for image in (a, b)]
        plan = self._solve(grid, operator, weights[0], weights[1], init)
        return attrs.evolve(plan, inputs=as_solved(a, b, value=plan.value))

    @uncompiled
    def solve(
        self, x: Tensor, y: Tensor, *, a: Tensor | None = None, b: Tensor | None = None, init: Any = None
    ) -> EntropicPlan:
        """Couple weights a and b (*batch, N) on the points of the kernel's grid, x = y = grid.points() (N, d)."""
        plan = self._solve(self.kernel, operator_of(self.kernel, x, y), a, b, init, y=y)
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
        """The same for an operator of the kernel `grid`, whose own ε holds; `init` leaves out the coarse levels.

        Raises ValueError where the solver's epsilon is set, and is another one.
        """
        if not isinstance(operator, SeparableOperator):
            raise ValueError(
                f"sinkhorn-grid needs an operator of the kernel `grid` whose cost is a sum over the axes, not a "
                f"{type(operator).__name__}: use the solver `sinkhorn`"
            )
        check_same_epsilon(self.epsilon, operator)
        plan = self._solve_problem(operator, a, b, init, y, None)
        return attrs.evolve(plan, inputs=as_solved(y, a, b, value=plan.value))

    def _solve(
        self, kernel: Kernel, operator: KernelOperator, a: Tensor | None, b: Tensor | None, init: Any, y: Any = None
    ) -> EntropicPlan:
        if isinstance(operator, SeparableOperator):
            operator = attrs.evolve(operator, epsilon=self._epsilon(operator, a, b))
            return self._solve_problem(operator, a, b, init, y, kernel)
        return self.solve_operator(operator, a=a, b=b, init=init, y=y)

    def _solve_problem(
        self,
        operator: SeparableOperator,
        a: Tensor | None,
        b: Tensor | None,
        init: Any,
        y: Tensor | None,
        kernel: Kernel | None,
    ) -> EntropicPlan:
        meter = Meter(operator.device)
        attached = problem_of(operator, a, b)
        check_epsilon(attached)
        outcome = None
        if init is None:
            outcome = self._coarse_to_fine(attached.detach())
            if all(reason == "converged" for reason in outcome.reasons):
                return plan_of(attached, outcome, self.tolerance, meter, y=y, kernel=kernel)
            init = outcome.f, outcome.g
        plan = Sinkhorn(tolerance=self.tolerance).solve_operator(operator, a=a, b=b, init=init, y=y)
        before = (outcome.iterations, outcome.matvecs) if outcome else (0, 0)
        return attrs.evolve(
            plan,
            kernel=kernel,
            iterations=plan.iterations + before[0],
            matvecs=plan.matvecs + before[1],
            seconds=meter.seconds,
            peak_bytes=meter.peak_bytes,
        )

    @torch.no_grad()
    def _epsilon(self, operator: SeparableOperator, a: Tensor | None, b: Tensor | None) -> float | Tensor:
        if self.epsilon is not None:
            return self.epsilon
        problem = problem_of(operator, a, b)
        return default_epsilon(operator.mean_cost(problem.a, problem.b))

    @torch.no_grad()
    def _coarse_to_fine(self, problem: Problem) -> Outcome:
        """Problems of one ε side by side; products and steps are those on the finest level, of the slowest."""
        operator = problem.operator
        assert isinstance(operator, SeparableOperator)
        points = problem.a.shape[-1]
        weights = problem.a.double().reshape(-1, points), problem.b.double().reshape(-1, problem.b.shape[-1])
        epsilons = problem.epsilon.expand(operator.batch_shape).reshape(-1).tolist()
        solved: dict[int, tuple[Solved, int]] = {}
        for group in _groups(epsilons, max(1, SIDE_BY_SIDE // points)):
            # A single problem has no batch dimension: the small products of an axis are faster without.
            rows = group if len(group) > 1 else group[0]
            with threads_for(operator.device, len(group) * points):
                levels = levels_of(operator, weights[0][rows], weights[1][rows], smallest=COARSEST)
                found = coarse_to_fine(levels, epsilons[group[0]], self.tolerance)
            solved |= {row: (found, place) for place, row in enumerate(group)}
        return self._outcome(problem, operator, [solved[row] for row in range(len(epsilons))])

    def _outcome(self, problem: Problem, operator: SeparableOperator, solved: list[tuple[Solved, int]]) -> Outcome:
        def collect(part: Callable[[State], Tensor], like: Tensor) -> Tensor:
            rows = [part(found.state).reshape(-1, like.shape[-1])[place] for found, place in solved]
            return torch.stack(rows).reshape(like.shape)

        f, g = collect(lambda s: s.f, problem.a).to(problem.a), collect(lambda s: s.g, problem.b).to(problem.b)
        if operator.dtype == torch.float64:
            rows = collect(lambda s: s.level.a * s.conditional.sums()[0], problem.a)
            marginals = rows, collect(lambda s: s.columns, problem.b)
        else:  # of the potentials as they are after rounding
            left, right = problem.left(f), problem.right(g)
            marginals = (left + operator.log_matvec(right)).exp(), (right + operator.log_rmatvec(left)).exp()
        errors = [float(found.state.errors.reshape(-1)[place]) for found, place in solved]
        reasons = tuple("converged" if error <= self.tolerance else "stalled" for error in errors)
        longest = max((found for found, _ in solved), key=lambda found: len(found.history))
        products = max(found.products for found, _ in solved)
        return Outcome(f, g, marginals, reasons, longest.history, len(longest.history) - 1, products)


@contextmanager
def threads_for(device: torch.device, points: int) -> Iterator[None]:
    """One CPU thread for as long as a small problem is solved, and as many as before afterwards.

    Its products are of small matrices: two threads took twice as long at 64², waiting for each other.
    """
    before = torch.get_num_threads()
    if device.type != "cpu" or points > ONE_THREAD or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _groups(epsilons: list[float], most: int) -> list[list[int]]:
    """Problems of the same ε, at most so many at once."""
    same: dict[float, list[int]] = {}
    for row, epsilon in enumerate(epsilons):
        same.setdefault(epsilon, []).append(row)
    return [rows[i : i + most] for rows in same.values() for i in range(0, len(rows), most)]


def coarse_to_fine(levels: list[Level], epsilon: float, tolerance: float) -> Solved:
    """Solve each level from the one before, the last one down to `epsilon`; return what the last solve took.

    Once a level has carried `epsilon` itself, the next one is left out: what interpolation gets wrong is then rough.
    """
    coarse, last, at = levels[0], levels[-1], 0
    dense = dense_ladder(coarse, _ladder(coarse.mean_cost / 2, _least(coarse, epsilon)), COARSE_TOLERANCE, ROUGH)
    inverse, g = CoarseInverse(dense.model), dense.state.next_g()
    while at < len(levels) - 1:
        at = min(at + (2 if _least(coarse, epsilon) == epsilon else 1), len(levels) - 1)
        level, carried = levels[at], _least(levels[at], epsilon)
        g = apply_axes(level.prolongation(coarse, extrapolate=True), g)
        operator = level.operator(carried)
        if level is last and carried == epsilon:
            return newton(level, operator, smoothed(level, operator, g), tolerance, inverse.at(level))
        if level.points > DIRECT:
            start = smoothed(level, operator, g)
            g = newton(level, operator, start, COARSE_TOLERANCE, inverse.at(level)).state.next_g()
        if level.points <= DENSE and carried < 2 * level.step:
            dense = solve_dense(level, log_kernel_of(level), carried, g, COARSE_TOLERANCE)
            inverse, g = CoarseInverse(dense.model), dense.state.next_g()
        coarse = level
    return descend(last, g, _least(last, epsilon), epsilon, inverse.at(last), tolerance)


def smoothed(level: Level, operator: SeparableOperator, g: Tensor) -> Tensor:
    """A Sinkhorn step after an interpolation: what that got wrong is rough, and mostly gone after one."""
    epsilon = operator.epsilon
    log_sums = operator.log_matvec(level.log_b + g / epsilon)
    return -epsilon * operator.log_rmatvec(level.log_a - log_sums)


def descend(
    level: Level,
    g: Tensor,
    start: float,
    epsilon: float,
    precondition: Callable[[State], Precondition],
    tolerance: float,
) -> Solved:
    """Solve a level for one ε after another, to `tolerance` at the last."""
    for current in _ladder(start, epsilon)[:-1]:
        g = newton(level, level.operator(current), g, ROUGH, precondition).state.next_g()
    return newton(level, level.operator(epsilon), g, tolerance, precondition)


def _ladder(start: float, epsilon: float) -> list[float]:
    """From `start` to `epsilon`, each a quarter of the one before; `epsilon` alone if it is above."""
    rungs = []
    while start > epsilon:
        rungs.append(start)
        start /= 4
    return [*rungs, epsilon]


def _least(level: Level, epsilon: float) -> float:
    """ε, or the least that the grid resolves: a bell of one cell."""
    return max(epsilon, level.step / 2)
