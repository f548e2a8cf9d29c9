"""Exact optimal transport: POT's network simplex, and SciPy's assignment where the weights allow it."""

from __future__ import annotations

import math
import time
import warnings
from typing import Any

import attrs
import torch
from atlas_kernels_builtin.exact.exact_operator import free_memory
from atlas_kernels_builtin.operators import operator_of
from torch import Tensor

from atlas_core.contracts import Kernel, KernelOperator
from atlas_solvers_builtin.transport.exact.assignment import assign, is_assignment
from atlas_solvers_builtin.transport.exact.sparse_coupling import SparseCoupling, costs
from atlas_solvers_builtin.transport.inputs_as_solved import as_solved
from atlas_solvers_builtin.transport.problem import Problem, problem_of
from atlas_solvers_builtin.transport.settings import fitted_kernel, kernel_field, max_iterations_field
from atlas_solvers_builtin.transport.uncompiled import uncompiled

COPIES = 4
"""Matrices of the size of the cost, in float64, that one problem takes at its peak."""


@attrs.frozen
class Exact:
    """Couple two sets of points at the very least cost, without smoothing; for up to some thousand points.

    Minimises ⟨P, C⟩ over plans P with marginals a and b, with the kernel's cost C = −log k: for `gaussian`,
    |x − y|² / (2h²). Equally many points of equal weight are an assignment, which SciPy solves; anything else is a flow
    for the network simplex of POT, an optional dependency. Both work on the whole cost matrix, in float64 on the CPU.
    """

    paper = "Bonneel et al. 2011 (network simplex); Crouse 2016 (assignment)"

    kernel: Kernel = kernel_field()
    max_iterations: int = max_iterations_field(
        10_000_000, "Pivots of the network simplex after which it gives up; an assignment needs none."
    )

    @uncompiled
    def solve(
        self, x: Tensor, y: Tensor, *, a: Tensor | None = None, b: Tensor | None = None, init: Any = None
    ) -> SparseCoupling:
        """Couple x (*batch, n, d) with weights a (n,) or (*batch, n), and y (*batch, m, d) with b; uniform where None.

        Raises ValueError for input that cannot be meant, and for an `init`: the simplex starts where it will.
        """
        kernel = fitted_kernel(self.kernel, x, y, a, b)
        solution = self.solve_operator(operator_of(kernel, x, y), a=a, b=b, init=init, y=y.detach())
        return attrs.evolve(solution, kernel=kernel, inputs=as_solved(x, y, a, b, value=solution.value))

    @uncompiled
    def solve_operator(
        self,
        operator: KernelOperator,
        *,
        a: Tensor | None = None,
        b: Tensor | None = None,
        init: Any = None,
        y: Tensor | None = None,
    ) -> SparseCoupling:
        """The same for the cost −ε log K of a given operator; y (*batch, m, d) is needed by `barycentric_map` alone."""
        start = time.perf_counter()
        if init is not None:
            raise ValueError("exact cannot start from a solution: leave init out, or use `sinkhorn`")
        attached = problem_of(operator, a, b)
        _check_memory(operator)
        cost = costs(operator)
        problem = attached.detach()
        parts = [self._solve_one(*one) for one in _each(cost.detach(), problem)]
        batch = torch.cat([torch.full_like(part.rows, k) for k, part in enumerate(parts)]).to(operator.device)
        rows, columns = (torch.cat([getattr(p, name) for p in parts]).to(batch) for name in ("rows", "columns"))
        masses = torch.cat([part.masses for part in parts]).to(problem.a)
        f, g = (torch.stack([getattr(p, name) for p in parts]) for name in ("f", "g"))
        f, g = f.to(problem.a).reshape(problem.a.shape), g.to(problem.b).reshape(problem.b.shape)
        shape = operator.batch_shape
        value = _value(cost.reshape(-1, *operator.shape)[batch, rows, columns], batch, masses, shape)
        # The weights' own derivatives are the potentials; the terms are zero.
        value = value + ((attached.a - problem.a) * f).sum(-1) + ((attached.b - problem.b) * g).sum(-1)
        status = tuple(part.status for part in parts)
        solution = SparseCoupling(
            problem=problem,
            batch=batch,
            rows=rows,
            columns=columns,
            masses=masses,
            f=f,
            g=g,
            value=value,
            duality_gap=torch.tensor([part.gap for part in parts]).to(problem.a).reshape(shape),
            marginal_error=torch.tensor([part.error for part in parts]).to(problem.a).reshape(shape),
            status=status,
            converged=torch.tensor([s == "converged" for s in status], device=operator.device).reshape(shape),
            seconds=time.perf_counter() - start,
            y=y,
            inputs=as_solved(y, a, b, value=value),
        )
        self._warn(solution)
        return solution

    def _solve_one(self, cost: Tensor, a: Tensor, b: Tensor) -> _Part:
        """Solve one problem, cost (n, m), a (n,), b (m,), in float64 on the CPU, between points of positive weight."""
        rows, columns = a.nonzero()[:, 0], b.nonzero()[:, 0]
        # The masses agree up to rounding; to the simplex they have to agree better than that.
        sources, targets = a[rows].double(), b[columns].double()
        targets = targets * (sources.sum() / targets.sum())
        inner = cost[rows][:, columns].double()
        status = "converged"
        if is_assignment(a[rows], b[columns]):
            match, _, g = assign(inner)
            pairs = torch.arange(len(match)), match
            masses = sources
        else:
            plan, g, status = _simplex(inner, sources, targets, self.max_iterations)
            origins, ends = plan.nonzero(as_tuple=True)
            pairs, masses = (origins, ends), plan[origins, ends]
        # Potentials of points without weight are c-transforms, over the points that have some.
        f = (cost[:, columns].double() - g).amin(1)
        g = (cost[rows].double() - f[rows, None]).amin(0)
        spent = torch.zeros_like(sources).index_add(0, pairs[0], masses)
        received = torch.zeros_like(targets).index_add(0, pairs[1], masses)
        return _Part(
            rows=rows[pairs[0]],
            columns=columns[pairs[1]],
            masses=masses,
            f=f,
            g=g,
            gap=float((masses * inner[pairs]).sum() - sources @ f[rows] - targets @ g[columns]),
            error=max(float((spent - sources).abs().sum()), float((received - targets).abs().sum())),
            status=status,
        )

    def _warn(self, solution: SparseCoupling) -> None:
        if not bool(solution.converged.all()):
            warnings.warn(
                f"exact: {int((~solution.converged).sum())} of {len(solution.status)} problem(s) not solved in "
                f"{self.max_iterations} pivots: the plan costs at most {float(solution.duality_gap.max()):.3g} too "
                "much. Next: raise max_iterations, or use `sinkhorn`.",
                RuntimeWarning,
                stacklevel=6,
            )


def _check_memory(operator: KernelOperator) -> None:
    """Raise ValueError where the cost matrix, the plan and the simplex's own arcs do not fit."""
    n, m = operator.shape
    need = COPIES * 8 * n * m + 8 * math.prod(operator.batch_shape) * n * m
    there = free_memory(torch.device("cpu"))
    if need > there:
        raise ValueError(
            f"exact works on the whole cost matrix: {n} × {m} points need {need / 1e9:.3g} GB, and "
            f"{there / 1e9:.3g} GB are free. Use `sinkhorn`, which streams, or `low-rank`"
        )


@attrs.frozen
class _Part:
    """One problem, solved."""

    rows: Tensor
    columns: Tensor
    masses: Tensor
    f: Tensor
    g: Tensor
    gap: float
    error: float
    status: str


def _each(cost: Tensor, problem: Problem) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Cost and weights of every problem, on the CPU."""
    n, m = problem.operator.shape
    flat = cost.reshape(-1, n, m), problem.a.reshape(-1, n), problem.b.reshape(-1, m)
    return list(zip(*(tensor.cpu().unbind() for tensor in flat), strict=True))


def _value(costs: Tensor, batch: Tensor, masses: Tensor, shape: tuple[int, ...]) -> Tensor:
    return masses.new_zeros(math.prod(shape)).index_add(0, batch, masses * costs).reshape(shape)


def _simplex(cost: Tensor, a: Tensor, b: Tensor, max_iterations: int) -> tuple[Tensor, Tensor, str]:
    """Return the plan (n, m), the potential of the columns (m,), and a status. Raises ValueError for infinite costs."""
    try:
        import ot
    except ImportError:
        raise ImportError(
            "exact transport of unequal weights needs the network simplex of POT: pip install POT, or "
            "pip install 'atlas-solvers-builtin[exact]'. Equally many points of equal weight need nothing"
        ) from None
    if not cost.isfinite().all():
        raise ValueError(
            "exact: some pairs have an infinite cost, which the network simplex cannot carry: widen the kernel"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # POT's word for it; ours follows, in the words of this config
        plan, log = ot.emd(a.numpy(), b.numpy(), cost.numpy(), numItermax=max_iterations, log=True)
    status = "converged" if log["result_code"] == 1 else "max-iterations"
    return torch.from_numpy(plan), torch.from_numpy(log["v"]), status
