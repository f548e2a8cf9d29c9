"""Low-rank optimal transport: a plan through few intermediate points, found in linear time."""

from __future__ import annotations

import time
import warnings
from typing import Any

import attrs
import torch
from atlas_kernels_builtin.operators import operator_of
from torch import Tensor

from atlas_core.contracts import Kernel, KernelOperator
from atlas_solvers_builtin.transport.inputs_as_solved import as_solved
from atlas_solvers_builtin.transport.low_rank.cost_products import CostProducts, StreamedCosts, cost_products
from atlas_solvers_builtin.transport.low_rank.factors import Factors, first_factors, projected, slope_of
from atlas_solvers_builtin.transport.low_rank.low_rank_coupling import LowRankCoupling
from atlas_solvers_builtin.transport.problem import Problem, mean_cost, problem_of
from atlas_solvers_builtin.transport.settings import fitted_kernel, kernel_field, max_iterations_field, tolerance_field
from atlas_solvers_builtin.transport.uncompiled import uncompiled

WINDOW = 20
"""Steps over which the cost has to fall."""
LONGER, SHORTER = 1.2, 0.4
"""What becomes of the step after one that made the plan cheaper, and after one that did not and is taken back."""
UNIT_ROWS = 256
"""Rows that the unit of the steps is measured on: linear time has none to spare."""
REASONS = ("max-iterations", "converged", "non-finite")


@attrs.frozen
class LowRank:
    """Couple large sets of points through `rank` intermediate ones: time and memory linear in their number.

    Minimises ⟨P, C⟩ over plans P = Q diag(1 / w) Rᵀ of non-negative rank r with marginals a and b, C = −log k, by
    mirror descent in (Q, R, w), each step projected onto the marginals. For a squared distance a step is linear in
    n + m; other costs are streamed. The problem is not convex: the answer is a plan with these marginals, which costs
    at least the optimum and some per cent more than the best of its rank.
    """

    paper = "Scetbon, Cuturi & Peyré 2021, algorithms 2 and 3; Forrow et al. 2019"

    kernel: Kernel = kernel_field()
    rank: int = attrs.field(
        default=10,
        validator=attrs.validators.ge(1),
        metadata={"help": "Number of intermediate points; more than points on either side are of no use, nor made."},
    )
    step: float = attrs.field(
        default=5.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "First mirror step: the most that a logarithm of Q, R or w moves; it adapts."},
    )
    tolerance: float = tolerance_field(1e-4, "Relative fall of the cost over 20 steps below which it stops.")
    max_iterations: int = max_iterations_field(2000, "Steps after which it gives up.")
    seed: int = attrs.field(default=0, metadata={"help": "Seed of the sources that the intermediate points start at."})

    @uncompiled
    def solve(
        self, x: Tensor, y: Tensor, *, a: Tensor | None = None, b: Tensor | None = None, init: Any = None
    ) -> LowRankCoupling:
        """Couple x (*batch, n, d) with weights a (n,) or (*batch, n), and y (*batch, m, d) with b; uniform where None.

        `init` is a solution of the same rank to start from. Raises ValueError for input that cannot be meant, and for
        weights that want a gradient.
        """
        kernel = fitted_kernel(self.kernel, x, y, a, b)
        operator = operator_of(kernel, x, y)
        products = cost_products(kernel, x, y, operator)
        detached = products
        if x.requires_grad or y.requires_grad:
            detached = cost_products(kernel, x.detach(), y.detach(), operator_of(kernel, x.detach(), y.detach()))
        solution = self._solve(operator, products, detached, a, b, init)
        return attrs.evolve(solution, y=y.detach(), kernel=kernel, inputs=as_solved(x, y, a, b, value=solution.value))

    @uncompiled
    def solve_operator(
        self,
        operator: KernelOperator,
        *,
        a: Tensor | None = None,
        b: Tensor | None = None,
        init: Any = None,
        y: Tensor | None = None,
    ) -> LowRankCoupling:
        """The same for the cost −ε log K of a given operator; y (*batch, m, d) is needed by `barycentric_map` alone."""
        products = StreamedCosts(operator)
        solution = self._solve(operator, products, products, a, b, init)
        return attrs.evolve(solution, y=y, inputs=as_solved(y, a, b, value=solution.value))

    def _solve(
        self,
        operator: KernelOperator,
        attached: CostProducts,
        products: CostProducts,
        a: Tensor | None,
        b: Tensor | None,
        init: Any,
    ) -> LowRankCoupling:
        start = time.perf_counter()
        if any(weights is not None and weights.requires_grad for weights in (a, b)):
            raise ValueError(
                "low-rank has no derivative by the weights: detach them, or use `sinkhorn` or `exact`, whose "
                "potentials are that derivative"
            )
        problem = problem_of(operator, a, b)
        factors, reason, history = self._descend(problem, products, self._start(problem, products, init))
        out, into, w, unit = factors.out, factors.into, factors.w, _unit(problem)[..., None]
        left = problem.a[..., None] * out / w[..., None, :]
        value = (left * attached.both(problem.b[..., None] * into, left)[0]).sum((-2, -1))
        status = tuple(REASONS[i] for i in reason.flatten().tolist())
        solution = LowRankCoupling(
            problem=problem,
            out=out,
            into=into,
            w=w,
            levels=(unit * factors.levels[0], unit * factors.levels[1]),
            value=value,
            marginal_error=factors.error(problem),
            status=status,
            converged=(reason == REASONS.index("converged")),
            iterations=len(history),
            history=history,
            seconds=time.perf_counter() - start,
        )
        self._warn(solution)
        return solution

    @torch.no_grad()
    def _start(self, problem: Problem, products: CostProducts, init: Any) -> Factors:
        rank = min(self.rank, *problem.operator.shape)
        if init is None:
            return first_factors(problem, products, _unit(problem), rank, self.seed)
        if not isinstance(init, LowRankCoupling):
            raise ValueError(
                f"init must be a low-rank solution, not a {type(init).__name__}: leave "
                "init out, or pass what `low-rank` returned for these points at this rank"
            )
        shapes = (*problem.a.shape, rank), (*problem.b.shape, rank), (*problem.a.shape[:-1], rank)
        found = init.out, init.into, init.w
        if tuple(t.shape for t in found) != shapes:
            raise ValueError(f"init must be a low-rank solution of rank {rank} of as many points: {shapes}")
        unit = _unit(problem)[..., None]
        out, into, w, *levels = (t.to(problem.a) for t in (*found, *init.levels))
        return Factors(out, into, w, (levels[0] / unit, levels[1] / unit))

    @torch.no_grad()
    def _descend(
        self, problem: Problem, products: CostProducts, factors: Factors
    ) -> tuple[Factors, Tensor, list[float]]:
        """Mirror steps until the cost no longer falls; a problem that has stopped stays as it is."""
        unit = _unit(problem)
        here = slope_of(problem, products, factors, unit)
        reason = torch.where(here.cost.isfinite(), 0, REASONS.index("non-finite"))
        step = torch.full_like(here.cost, self.step)
        costs = [here.cost]
        while len(costs) <= self.max_iterations and bool((reason == 0).any()):
            moved = projected(problem, factors, here, step)
            there = slope_of(problem, products, moved, unit)
            better = (reason == 0) & (there.cost < here.cost)
            factors, here = factors.chosen(better, moved), here.chosen(better, there)
            step = step * torch.where(better, LONGER, SHORTER)
            costs.append(here.cost)
            now = torch.zeros_like(reason)
            if len(costs) > WINDOW:
                now = torch.where(costs[-1 - WINDOW] - here.cost <= self.tolerance * here.cost, 1, now)
            reason = torch.where(reason == 0, now, reason)
        return factors, reason, [float(cost.max()) for cost in costs]

    def _warn(self, solution: LowRankCoupling) -> None:
        if not bool(solution.converged.all()):
            warnings.warn(
                f"low-rank: {int((~solution.converged).sum())} of {len(solution.status)} problem(s) not solved "
                f"({', '.join(sorted(set(solution.status) - {'converged'}))}) after {solution.iterations} steps. Next: "
                "raise max_iterations or tolerance; a cost that is infinite anywhere needs a wider kernel.",
                RuntimeWarning,
                stacklevel=5,
            )


def _unit(problem: Problem) -> Tensor:
    """(*batch,): the mean cost; points that all coincide cost nothing, and any unit is right."""
    mean = mean_cost(problem, rows=UNIT_ROWS)
    return torch.where(mean > 0, mean, 1.0)
