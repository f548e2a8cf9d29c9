"""The plan that an entropic solver returns: potentials and an operator, never the matrix unless it is asked for."""

from __future__ import annotations

import functools

import attrs
import torch
from atlas_kernels_builtin.exact.checks import check_real
from torch import Tensor

from atlas_core.contracts import Kernel, KernelOperator
from atlas_solvers_builtin.transport.balanced.absorbed import signed_product
from atlas_solvers_builtin.transport.balanced.implicit import attached_potentials
from atlas_solvers_builtin.transport.inputs_as_solved import InputsAsSolved
from atlas_solvers_builtin.transport.items import as_items, mapped_rows, operator_from
from atlas_solvers_builtin.transport.problem import Problem
from atlas_solvers_builtin.transport.uncompiled import uncompiled


@attrs.frozen(eq=False, slots=False)
class EntropicPlan:
    """Carry mass along P_ij = a_i b_j exp((f_i + g_j − C_ij) / ε) without forming P (satisfies `EntropicSolution`).

    `value` has a graph, and so have what `potentials()` and `barycentric_map(differentiable=True)` return; everything
    else is computed without one. It reads the points and weights that it was given, not copies: what is computed when
    asked for, `cost`, products, maps, `plan`, `potentials`, raises ValueError once those were changed in place.
    """

    f: Tensor = attrs.field(repr=False)
    """(*batch, n); where a_i = 0, the c-transform of g. A constant could move from f to g: ⟨a, f⟩ = ⟨b, g⟩."""
    g: Tensor = attrs.field(repr=False)
    """(*batch, m); where b_j = 0, the c-transform of f."""
    value: Tensor
    """⟨P, C⟩ + ε KL(P | a ⊗ b), (*batch,), as the dual objective at (f, g): a lower bound, off by the square of the
    marginal error; differentiable in x, y, a, b and the operator's ε by the envelope theorem (Danskin)."""
    marginals: tuple[Tensor, Tensor] = attrs.field(repr=False)
    """Row and column sums of P as returned."""
    marginal_error: Tensor
    """(*batch,): the larger of the two in `marginal_errors`."""
    marginal_errors: tuple[Tensor, Tensor] = attrs.field(repr=False)
    """(*batch,) each: L1 distances of the two marginals from a and b, measured on P as returned."""
    gap: Tensor = attrs.field(repr=False)
    """(*batch,): the primal objective at P less the dual one at (f, g), ⟨P1 − a, f⟩ + ⟨Pᵀ1 − b, g⟩. Of either sign, as
    P is not quite feasible; its size bounds what `value` can still change to first order."""
    status: tuple[str, ...]
    """`converged`, `max-iterations`, `stalled` (rounding allows no better) or `non-finite`, one a problem."""
    converged: Tensor
    """(*batch,), bool."""
    iterations: int
    """Sweeps and steps of conjugate gradients of the slowest problem: two products each."""
    matvecs: int
    """Products with K and Kᵀ, absorbed or in the log domain."""
    history: list[float] = attrs.field(repr=False)
    """The largest marginal error of the batch, as a share of the mass, each time it was looked at."""
    seconds: float
    peak_bytes: int | None
    """Most memory that the solve had beyond what there was before: of the device's allocator, or on a CPU what the
    process's peak grew by (0 if it had been higher before); None where the system does not tell, as on Windows."""
    problem: Problem = attrs.field(repr=False)
    """What was solved, with the graph of its weights and ε."""
    y: Tensor | None = attrs.field(default=None, repr=False)
    kernel: Kernel | None = attrs.field(default=None, repr=False)
    inputs: InputsAsSolved = attrs.field(factory=InputsAsSolved, repr=False)
    """The caller's points and weights: what is computed when asked for is refused once they were changed in place."""

    @property
    def epsilon(self) -> Tensor:
        """The ε that was used: (), or (*batch,)."""
        return self.problem.epsilon.detach()

    @functools.cached_property
    @uncompiled
    def cost(self) -> Tensor:
        """⟨P, C⟩, (*batch,), streamed when first asked for."""
        with torch.no_grad():
            return self.problem.operator.cost_inner(*self._scalings)

    @property
    def _scalings(self) -> tuple[Tensor, Tensor]:
        self.inputs.check()
        return self.problem.detach().scalings(self.f, self.g)

    @uncompiled
    @torch.no_grad()
    def matvec(self, v: Tensor) -> Tensor:
        """P @ v: (*batch, m) or (*batch, m, k) -> (*batch, n) or (*batch, n, k)."""
        return _apply(self.problem.operator, *self._scalings, v)

    @uncompiled
    @torch.no_grad()
    def rmatvec(self, u: Tensor) -> Tensor:
        """Pᵀ @ u: (*batch, n) or (*batch, n, k) -> (*batch, m) or (*batch, m, k)."""
        return _apply(self.problem.operator, *self._scalings, u, transposed=True)

    @uncompiled
    def potentials(self) -> tuple[Tensor, Tensor]:
        """f and g with the graph of x, y, a, b and ε, by implicit differentiation: memory O(n + m).

        The backward pass solves one linear system with the Schur complement, by conjugate gradients. First derivatives
        only.
        """
        self.inputs.check()
        return attached_potentials(self.problem, self.f, self.g)

    @uncompiled
    def barycentric_map(self, z: Tensor | None = None, *, differentiable: bool = False) -> Tensor:
        """E[y | x = z], z (*batch, k, d) -> (*batch, k, d): where each point goes on average; None: the points x.

        Out of sample the weights are those of the c-transform of g (Pooladian & Niles-Weed 2021, eq. 4), which at the
        points x gives the plan's own. `differentiable`: with the graph of z, x, y, a, b and ε, through `potentials`.
        Raises ValueError where the points were never given: see `solve_operator`.
        """
        self.inputs.check()
        with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
            operator = self.problem.operator
            y, item = mapped_rows(self.y, operator, self.kernel, z)
            if z is not None:
                operator = operator_from(z, self.y, operator, self.kernel, epsilon=operator.epsilon)
            right = self.problem.attached_right(self.potentials()[1] if torch.is_grad_enabled() else self.g)
            return as_items(_apply(operator, -operator.log_matvec(right), right, y), item)

    @uncompiled
    @torch.no_grad()
    def plan(self) -> Tensor:
        """P itself, (*batch, n, m)."""
        operator, (left, right) = self.problem.operator, self._scalings
        if operator.absorbs:
            return operator.scaled(left, right).dense()
        rows = operator.log_rows(torch.arange(operator.shape[0], device=operator.device))
        return (left[..., :, None] + rows + right[..., None, :]).exp()


def _apply(operator: KernelOperator, left: Tensor, right: Tensor, v: Tensor, *, transposed: bool = False) -> Tensor:
    """diag(exp left) K diag(exp right) @ v, or its transpose, without overflow; log scalings may be −inf.

    Raises ValueError for a vector of integers.
    """
    check_real(v)
    if operator.absorbs:
        scaled = operator.scaled(left, right)
        return scaled.rmatvec(v) if transposed else scaled.matvec(v)
    if transposed:
        return signed_product(operator.log_rmatvec, right, left, v)
    return signed_product(operator.log_matvec, left, right, v)
