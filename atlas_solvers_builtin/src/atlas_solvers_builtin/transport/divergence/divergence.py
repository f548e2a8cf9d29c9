"""The Sinkhorn divergence: entropic transport without its bias, a distance that is 0 where the two sets are equal."""

from __future__ import annotations

import math
import time
import warnings
from typing import Any, Literal, NoReturn

import attrs
import torch
from atlas_kernels_builtin.operators import operator_of
from torch import Tensor

from atlas_core.contracts import Kernel, KernelOperator
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn
from atlas_solvers_builtin.transport.divergence.symmetric import SelfTransport, self_transport
from atlas_solvers_builtin.transport.inputs_as_solved import as_solved
from atlas_solvers_builtin.transport.items import spread
from atlas_solvers_builtin.transport.problem import problem_of
from atlas_solvers_builtin.transport.settings import (
    epsilon_field,
    kernel_field,
    max_iterations_field,
    scaled_kernel,
    tolerance_field,
)
from atlas_solvers_builtin.transport.solution import EntropicPlan
from atlas_solvers_builtin.transport.unbalanced.penalties import penalty_of
from atlas_solvers_builtin.transport.unbalanced.unbalanced import SinkhornUnbalanced
from atlas_solvers_builtin.transport.uncompiled import uncompiled


@attrs.frozen(eq=False)
class Debiased:
    """A divergence, and the plan across whose cost it debiases (satisfies `Coupling`).

    `value` has a graph, everything else is computed without one; products, map, marginals and cost are `across`'s.
    """

    value: Tensor
    """S(x, y), (*batch,), differentiable in x, y, a and b by the envelope theorem."""
    f: Tensor = attrs.field(repr=False)
    """(*batch, n): the debiased potential, f across less f within x; its mean-free part is dS / da."""
    g: Tensor = attrs.field(repr=False)
    """(*batch, m)."""
    across: EntropicPlan
    """The solution between x and y."""
    within: tuple[SelfTransport, SelfTransport] = attrs.field(repr=False)
    """Those of x and of y with themselves."""
    marginal_error: Tensor
    """(*batch,): the largest of the three."""
    status: tuple[str, ...]
    """`converged`, or what kept the first that did not; one a problem."""
    converged: Tensor
    """(*batch,), bool: all three."""
    seconds: float

    @property
    def epsilon(self) -> Tensor:
        return self.across.epsilon

    @property
    def iterations(self) -> int:
        return self.across.iterations + sum(side.iterations for side in self.within)

    @property
    def marginals(self) -> tuple[Tensor, Tensor]:
        return self.across.marginals

    @property
    def cost(self) -> Tensor:
        return self.across.cost

    def matvec(self, v: Tensor) -> Tensor:
        return self.across.matvec(v)

    def rmatvec(self, u: Tensor) -> Tensor:
        return self.across.rmatvec(u)

    def barycentric_map(self, z: Tensor | None = None) -> Tensor:
        return self.across.barycentric_map(z)

    def plan(self) -> Tensor:
        return self.across.plan()


@attrs.frozen
class SinkhornDivergence:
    """Compare two sets of points: a smooth distance, 0 if and only if they are equal, for losses and metrics.

    S(x, y) = OT(x, y) − ½ OT(x, x) − ½ OT(y, y) + ½ ε (Σ a − Σ b)², OT the value of entropic transport with the
    kernel's cost C = −log k: for `gaussian`, |x − y|² / (2h²). The terms within a set take symmetric updates, some
    twenty of them. Balanced unless `rho` is finite. Positive for kernels that are positive definite.
    """

    paper = "Feydy et al. 2019, eq. 3 and 25; unbalanced, Séjourné et al. 2019, eq. 8"

    kernel: Kernel = kernel_field()
    epsilon: float | None = epsilon_field()
    rho: float = attrs.field(
        default=math.inf,
        validator=attrs.validators.gt(0),
        metadata={"help": "Price of mass that differs, in units of the cost; inf: balanced, all of it is moved."},
    )
    marginals: Literal["kl", "tv"] = attrs.field(
        default="kl",
        validator=attrs.validators.in_(("kl", "tv")),
        metadata={"help": "Divergence of the marginals where rho is finite: `kl`, or `tv` (total variation)."},
    )
    tolerance: float = tolerance_field(
        1e-5, "L1 error of the marginals, as a share of the mass, at which each iteration stops."
    )
    max_iterations: int = max_iterations_field(10_000, "Iterations after which each gives up.")

    def __attrs_post_init__(self) -> None:
        if self.rho == math.inf and self.marginals != "kl":
            raise ValueError(
                f"marginals = {self.marginals!r} has no effect with rho = inf, where no mass may differ: set a finite "
                "rho, or leave marginals out"
            )

    @uncompiled
    def solve(
        self, x: Tensor, y: Tensor, *, a: Tensor | None = None, b: Tensor | None = None, init: Any = None
    ) -> Debiased:
        """Compare x (*batch, n, d) with weights a (n,) or (*batch, n) to y (*batch, m, d) with b; uniform where None.

        `init` is a solution, or the (f, g) of one across, to start from. Raises ValueError for input that cannot be
        meant.
        """
        start = time.perf_counter()
        balanced = self.rho == math.inf
        kernel, _, epsilon = scaled_kernel(self.kernel, self.epsilon, x, y, a, b, balanced=balanced)
        operator = operator_of(kernel, x, y, epsilon=epsilon)
        problem = problem_of(operator, a, b, balanced=balanced)
        init = init.across if isinstance(init, Debiased) else init
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")  # what did not converge is said once, of all three
            across = self._solver(kernel).solve_operator(operator, a=a, b=b, init=init, y=y)
        sides = (spread(points, problem.operator, kernel) for points in (x, y))
        within = [
            self._within(operator_of(kernel, side, side, epsilon=epsilon), weights)
            for side, weights in zip(sides, (problem.a, problem.b), strict=True)
        ]
        value = across.value - within[0].value / 2 - within[1].value / 2
        if not balanced:
            value = value + epsilon * (problem.a.sum(-1) - problem.b.sum(-1)).square() / 2
        said = [str(each.message) for each in heard]
        if short := {status for side in within for status in side.status} - {"converged"}:
            said.append(
                f"Transport of a set to itself: {', '.join(sorted(short))}; tolerance {self.tolerance:.1e}. Next: "
                "raise tolerance, max_iterations or epsilon, or use float64."
            )
        if said:
            warnings.warn(f"sinkhorn-divergence: {' '.join(said)}", RuntimeWarning, stacklevel=3)
        across = attrs.evolve(across, kernel=kernel, inputs=as_solved(x, y, a, b, value=value))
        return self._result(value, across, (within[0], within[1]), start)

    @uncompiled
    def solve_operator(
        self,
        operator: KernelOperator,
        *,
        a: Tensor | None = None,
        b: Tensor | None = None,
        init: Any = None,
        y: Tensor | None = None,
    ) -> NoReturn:
        """Raises ValueError: one operator does not hold the costs within either set."""
        raise ValueError(
            "sinkhorn-divergence needs the points, for the costs within each set: use solve(x, y), or `sinkhorn` for a "
            "given operator"
        )

    def _solver(self, kernel: Kernel) -> Sinkhorn | SinkhornUnbalanced:
        if self.rho == math.inf:
            return Sinkhorn(kernel=kernel, tolerance=self.tolerance, max_iterations=self.max_iterations)
        return SinkhornUnbalanced(
            kernel=kernel,
            rho=self.rho,
            marginals=self.marginals,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )

    def _within(self, operator: KernelOperator, weights: Tensor) -> SelfTransport:
        penalty = penalty_of(self.marginals, self.rho, weights)
        return self_transport(problem_of(operator, weights, weights), penalty, self.tolerance, self.max_iterations)

    def _result(
        self, value: Tensor, across: EntropicPlan, within: tuple[SelfTransport, SelfTransport], start: float
    ) -> Debiased:
        three = across, *within
        found = zip(*(part.status for part in three), strict=True)
        status = tuple(next((s for s in statuses if s != "converged"), "converged") for statuses in found)
        converged = torch.tensor([s == "converged" for s in status], device=value.device).reshape(value.shape)
        return Debiased(
            value=value,
            f=across.f - within[0].f,
            g=across.g - within[1].f,
            across=across,
            within=within,
            marginal_error=torch.stack([part.marginal_error for part in three]).amax(0),
            status=status,
            converged=converged,
            seconds=time.perf_counter() - start,
        )
