"""Unbalanced Sinkhorn: entropic transport that may make and destroy mass, at a price."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import attrs
import torch
from atlas_kernels_builtin.operators import operator_of
from torch import Tensor

from atlas_core.contracts import Kernel, KernelOperator
from atlas_solvers_builtin.transport.inputs_as_solved import as_solved
from atlas_solvers_builtin.transport.outcome import Meter
from atlas_solvers_builtin.transport.problem import Problem, check_epsilon, check_same_epsilon, mean_cost, problem_of
from atlas_solvers_builtin.transport.settings import (
    A_PRICE,
    epsilon_field,
    kernel_field,
    max_iterations_field,
    scaled_kernel,
    tolerance_field,
)
from atlas_solvers_builtin.transport.start import start_of
from atlas_solvers_builtin.transport.unbalanced.penalties import Penalty, penalty_of
from atlas_solvers_builtin.transport.unbalanced.proximal import Sweeps, Swept
from atlas_solvers_builtin.transport.unbalanced.unbalanced_plan import UnbalancedPlan, measured, warn
from atlas_solvers_builtin.transport.uncompiled import uncompiled

FIRST_SHARE, FACTOR, COARSE = 0.5, 4.0, 1e-2
"""ε-scaling: the first ε in units of the mean cost, the step down, and the tolerance on the way."""


@attrs.frozen
class SinkhornUnbalanced:
    """Couple two sets of points whose masses differ, or of which some have no counterpart: outliers stay behind.

    Minimises ⟨P, C⟩ + ε KL(P | a ⊗ b) + ρ_a D(P 1 | a) + ρ_b D(Pᵀ 1 | b) with the kernel's cost C = −log k, KL(p | q) =
    Σ p ln(p / q) − p + q, and D = KL or total variation Σ |p − q|. Under total variation no pair that costs more than
    ρ_a + ρ_b is matched, up to ε. Sweeps as ε falls, then Newton's method on the semi-dual, until the plan's marginals
    are those that the potentials want; to run out of iterations is a status and a warning, not an exception.
    """

    paper = "Chizat, Peyré, Schmitzer & Vialard 2018; Séjourné et al. 2019; Séjourné, Vialard & Peyré 2022"

    kernel: Kernel = kernel_field()
    epsilon: float | None = epsilon_field()
    marginals: Literal["kl", "tv"] = attrs.field(
        default="kl",
        validator=attrs.validators.in_(("kl", "tv")),
        metadata={"help": "Divergence of the marginals: `kl`, mass fades with distance; `tv`, it moves or it stays."},
    )
    rho: float | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.gt(0)),
        metadata={
            "help": "Price of mass that differs, in units of the cost; inf: none may; unset: the mean cost of a ⊗ b.",
            "infinite": True,
        },
    )
    rho_a: float | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.gt(0)),
        metadata={"help": "The price on the side of x alone; inf: all of a is moved; unset: rho.", "infinite": True},
    )
    rho_b: float | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.gt(0)),
        metadata={"help": "The price on the side of y alone; inf: all of b is filled; unset: rho.", "infinite": True},
    )
    tolerance: float = tolerance_field(
        1e-4, "L1 distance of the plan's marginals from those wanted, as a share of the mean mass."
    )
    max_iterations: int = max_iterations_field(5000, "Sweeps and steps of conjugate gradients after which it gives up.")

    @uncompiled
    def solve(
        self, x: Tensor, y: Tensor, *, a: Tensor | None = None, b: Tensor | None = None, init: Any = None
    ) -> UnbalancedPlan:
        """Couple x (*batch, n, d) with weights a (n,) or (*batch, n), and y (*batch, m, d) with b; uniform where None.

        The masses may differ, unless rho_a = rho_b = inf. `init` is a solution, or its (f, g), to start from; without
        one, ε falls in steps of 4. Raises ValueError for input that cannot be meant.
        """
        kernel, mean, epsilon = scaled_kernel(self.kernel, self.epsilon, x, y, a, b, balanced=self._balanced)
        meter = Meter(x.device)
        attached = self._problem(operator_of(kernel, x, y, epsilon=epsilon), a, b)
        solution = self._solve(attached, _positive(mean), init, meter, y=y, kernel=kernel)
        return attrs.evolve(solution, inputs=as_solved(x, y, a, b, value=solution.value))

    @uncompiled
    def solve_operator(
        self,
        operator: KernelOperator,
        *,
        a: Tensor | None = None,
        b: Tensor | None = None,
        init: Any = None,
        y: Tensor | None = None,
    ) -> UnbalancedPlan:
        """The same for a given operator, whose own ε holds; y (*batch, m, d) is needed by `barycentric_map` alone.

        Raises ValueError where the solver's epsilon is set, and is another one.
        """
        check_same_epsilon(self.epsilon, operator)
        meter = Meter(operator.device)
        attached = self._problem(operator, a, b)
        solution = self._solve(attached, _positive(mean_cost(attached.detach())), init, meter, y=y, kernel=None)
        return attrs.evolve(solution, inputs=as_solved(y, a, b, value=solution.value))

    def _solve(
        self,
        attached: Problem,
        mean: Tensor,
        init: Any,
        meter: Meter,
        *,
        y: Tensor | None,
        kernel: Kernel | None,
    ) -> UnbalancedPlan:
        problem, penalties = attached.detach(), self._penalties(mean)
        check_epsilon(problem)
        g, work = start_of(problem, init)[1], Swept.nothing()
        for coarser in _coarser(problem, mean) if init is None else ():
            work = work.then(Sweeps(coarser, penalties, COARSE).run(g, self.max_iterations))
            g = work.g
        work = work.then(Sweeps(problem, penalties, self.tolerance).run(g, self.max_iterations))
        solution = measured(attached, penalties, work, self.tolerance, meter, y=y, kernel=kernel)
        warn(solution, self.tolerance, stacklevel=4)
        return solution

    @property
    def _prices(self) -> tuple[float | None, float | None]:
        return tuple(self.rho if rho is None else rho for rho in (self.rho_a, self.rho_b))  # type: ignore[return-value]

    @property
    def _balanced(self) -> bool:
        return self._prices == (math.inf, math.inf)

    def _problem(self, operator: KernelOperator, a: Tensor | None, b: Tensor | None) -> Problem:
        return problem_of(operator, a, b, balanced=self._balanced, otherwise=A_PRICE)

    def _penalties(self, mean: Tensor) -> tuple[Penalty, Penalty]:
        first, second = (penalty_of(self.marginals, mean if rho is None else rho, mean) for rho in self._prices)
        return first, second


def _positive(mean: Tensor) -> Tensor:
    """Points that all coincide cost nothing, and any unit is right."""
    return torch.where(mean > 0, mean, 1.0)


def _coarser(problem: Problem, mean: Tensor) -> Iterator[Problem]:
    """The problem at larger ε, from half the mean cost down, if its operator knows any but its own."""
    stage = FIRST_SHARE * mean
    while hasattr(problem.operator, "with_epsilon") and bool((stage > problem.epsilon).any()):
        yield problem.at(torch.maximum(stage, problem.epsilon))
        stage = stage / FACTOR
