"""Entropic transport between images: solved on a coarse grid first, and then on one twice as fine, and so on."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import attrs
import torch
from atlas_kernels_builtin.exact.streaming import operator_of
from atlas_kernels_builtin.grids.grid import Grid
from atlas_kernels_builtin.grids.separable import SeparableOperator
from torch import Tensor

from atlas_core.contracts import Kernel, KernelOperator
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn
from atlas_solvers_builtin.transport.grids.grid_levels import Level, apply_axes, levels_of
from atlas_solvers_builtin.transport.grids.grid_newton import CoarseInverse, Precondition, Solved, State, direct, newton
from atlas_solvers_builtin.transport.outcome import Meter, Outcome, plan_of
from atlas_solvers_builtin.transport.problem import Problem, check_epsilon, problem_of
from atlas_solvers_builtin.transport.settings import default_epsilon, epsilon_field, kernel_field, tolerance_field
from atlas_solvers_builtin.transport.solution import EntropicPlan

COARSEST = 64
"""Points of the coarsest level, whose Newton steps are solved directly."""
DENSE = 1024
"""Points of a level whose matrix may be inverted to precondition finer ones."""
SMOOTHING = 2
"""Sinkhorn steps after an interpolation: what it got wrong is rough, and gone after a step or two."""
COARSE_TOLERANCE = 1e-3
"""On coarse levels: halving the cells alone changes the plan by more."""
ROUGH = 1e-2
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
        return self._solve(grid, operator, weights[0], weights[1], init)

    def solve(
        self, x: Tensor, y: Tensor, *, a: Tensor | None = None, b: Tensor | None = None, init: Any = None
    ) -> EntropicPlan:
        """Couple weights a and b (*batch, N) on the points of the kernel's grid, x = y = grid.points() (N, d)."""
        return self._solve(self.kernel, operator_of(self.kernel, x, y), a, b, init, y=y)

    def solve_operator(
        self,
        operator: KernelOperator,
        *,
        a: Tensor | None = None,
        b: Tensor | None = None,
        init: Any = None,
        y: Tensor | None = None,
    ) -> EntropicPlan:
        """The same for an operator of the kernel `grid`, whose own ε holds; `init` leaves out the coarse levels."""
        if not isinstance(operator, SeparableOperator):
            raise ValueError(
                f"sinkhorn-grid needs an operator of the kernel `grid` whose cost is a sum over the axes, not a "
                f"{type(operator).__name__}: use the solver `sinkhorn`"
            )
        return self._solve_problem(operator, a, b, init, y, None)

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
        """One problem of the batch after the other; products and steps are those on the finest level."""
        shape, operator = problem.a.shape, problem.operator
        assert isinstance(operator, SeparableOperator)
        rows = [side.double().reshape(-1, side.shape[-1]) for side in (problem.a, problem.b)]
        epsilons = problem.epsilon.expand(operator.batch_shape).reshape(-1).tolist()
        solved = [
            coarse_to_fine(levels_of(operator, left, right, smallest=COARSEST), epsilon, self.tolerance)
            for left, right, epsilon in zip(*rows, epsilons, strict=True)
        ]
        f, g = (torch.stack([getattr(each.state, name) for each in solved]).reshape(shape) for name in ("f", "g"))
        f, g = f.to(problem.a), g.to(problem.b)
        if operator.dtype == torch.float64:
            sums = torch.stack([each.state.conditional.sums()[0] for each in solved]).reshape(shape)
            marginals = problem.a * sums, torch.stack([each.state.columns for each in solved]).reshape(shape)
        else:  # of the potentials as they are after rounding
            left, right = problem.left(f), problem.right(g)
            marginals = (left + operator.log_matvec(right)).exp(), (right + operator.log_rmatvec(left)).exp()
        reasons = ["converged" if each.state.error <= self.tolerance else "stalled" for each in solved]
        longest = max((each.history for each in solved), key=len)
        products = max(each.products for each in solved)
        return Outcome(f, g, marginals, tuple(reasons), longest, len(longest) - 1, products)


def coarse_to_fine(levels: list[Level], epsilon: float, tolerance: float) -> Solved:
    """Solve each level from the one before, the last one down to `epsilon`; return what the last solve took."""
    first = levels[0]
    solved = descend(first, torch.zeros_like(first.b), first.mean_cost / 2, _least(first, epsilon), direct)
    inverse = CoarseInverse.of(solved.state)
    for coarse, level in itertools.pairwise(levels):
        carried = _least(level, epsilon)
        operator = level.operator(carried)
        g = apply_axes(level.prolongation(coarse, extrapolate=True), solved.state.next_g())
        for _ in range(SMOOTHING):
            log_sums = operator.log_matvec(level.b.log() + g / carried)
            g = -carried * operator.log_rmatvec(level.a.log() - log_sums)
        if level is levels[-1] and carried == epsilon:
            return newton(level, operator, g, tolerance, inverse.at(level))
        solved = newton(level, operator, g, COARSE_TOLERANCE, inverse.at(level))
        if level.points <= DENSE and carried < 2 * level.step:
            inverse = CoarseInverse.of(solved.state)
    last, state = levels[-1], solved.state
    start = float(state.conditional.base.epsilon)
    return descend(last, state.next_g(), start, epsilon, inverse.at(last), tolerance=tolerance)


def descend(
    level: Level,
    g: Tensor,
    start: float,
    epsilon: float,
    precondition: Callable[[State], Precondition],
    *,
    tolerance: float = COARSE_TOLERANCE,
) -> Solved:
    """Solve a level for one ε after another, each a quarter of the one before, to `tolerance` at the last."""
    current = max(start, epsilon)
    while current > epsilon:
        g = newton(level, level.operator(current), g, ROUGH, precondition).state.next_g()
        current = max(epsilon, current / 4)
    return newton(level, level.operator(epsilon), g, tolerance, precondition)


def _least(level: Level, epsilon: float) -> float:
    """ε, or the least that the grid resolves: a bell of one cell."""
    return max(epsilon, level.step / 2)
