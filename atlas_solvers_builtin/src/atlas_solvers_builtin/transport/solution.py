"""The plan that an entropic solver returns: potentials and an operator, never the matrix unless it is asked for."""

from __future__ import annotations

import attrs
import torch
from atlas_kernels_builtin.streaming import operator_of
from torch import Tensor

from atlas_core.contracts import Kernel, KernelOperator
from atlas_solvers_builtin.transport.problem import Problem


@attrs.frozen(eq=False)
class EntropicPlan:
    """Carry mass along P_ij = a_i b_j exp((f_i + g_j − C_ij) / ε) without forming P (satisfies `EntropicSolution`).

    Only `value` has a graph; everything else is computed without one.
    """

    f: Tensor = attrs.field(repr=False)
    """(*batch, n); where a_i = 0, the c-transform of g."""
    g: Tensor = attrs.field(repr=False)
    """(*batch, m)."""
    value: Tensor
    """⟨P, C⟩ + ε KL(P | a ⊗ b), (*batch,), as the dual objective at (f, g): a lower bound, off by the square of the
    marginal error; differentiable in x, y, a, b and the operator's ε by the envelope theorem (Danskin)."""
    cost: Tensor
    """⟨P, C⟩, (*batch,)."""
    marginals: tuple[Tensor, Tensor] = attrs.field(repr=False)
    """Row and column sums of P as returned."""
    marginal_error: Tensor
    """(*batch,): the larger L1 distance of the two marginals from a and b, of P as returned."""
    status: tuple[str, ...]
    """`converged`, `max-iterations`, `stalled` (rounding allows no better) or `non-finite`, one a problem."""
    converged: Tensor
    """(*batch,), bool."""
    iterations: int
    matvecs: int
    """Products with K and Kᵀ, in the log domain or not, of the iteration and of the final measurement."""
    history: list[float] = attrs.field(repr=False)
    """The largest row error of the batch, as a share of the mass, after each iteration."""
    seconds: float
    problem: Problem = attrs.field(repr=False)
    y: Tensor | None = attrs.field(default=None, repr=False)
    kernel: Kernel | None = attrs.field(default=None, repr=False)

    @property
    def epsilon(self) -> Tensor:
        """The ε that was used: (), or (*batch,)."""
        return self.problem.epsilon

    @torch.no_grad()
    def matvec(self, v: Tensor) -> Tensor:
        """P @ v: (*batch, m) or (*batch, m, k) -> (*batch, n) or (*batch, n, k)."""
        left, right = self.problem.left(self.f), self.problem.right(self.g)
        return _apply(self.problem.operator, left, right, v)

    @torch.no_grad()
    def rmatvec(self, u: Tensor) -> Tensor:
        """Pᵀ @ u: (*batch, n) or (*batch, n, k) -> (*batch, m) or (*batch, m, k)."""
        left, right = self.problem.left(self.f), self.problem.right(self.g)
        return _apply(self.problem.operator, left, right, u, transposed=True)

    @torch.no_grad()
    def barycentric_map(self, z: Tensor | None = None) -> Tensor:
        """E[y | x = z], z (*batch, k, d) -> (*batch, k, d): where each point goes on average; None: the points x.

        Out of sample the weights are those of the c-transform of g (Pooladian & Niles-Weed 2021, eq. 4), which at the
        points x gives the plan's own. Raises ValueError where the points were never given: see `solve_operator`.
        """
        if self.y is None:
            raise ValueError("barycentric_map needs the target points: pass y=… to solve_operator")
        operator = self.problem.operator
        y = self.y.expand(*operator.batch_shape, *self.y.shape[-2:])
        if z is not None:
            if self.kernel is None:
                raise ValueError("barycentric_map(z) needs the kernel: couple points with solve(x, y)")
            operator = operator_of(self.kernel, z, y, epsilon=operator.epsilon)
        right = self.problem.right(self.g)
        return _apply(operator, -operator.log_matvec(right), right, y)

    @torch.no_grad()
    def plan(self) -> Tensor:
        """P itself, (*batch, n, m)."""
        operator, left, right = self.problem.operator, self.problem.left(self.f), self.problem.right(self.g)
        if operator.absorbs:
            return operator.scaled(left, right).dense()
        rows = operator.log_rows(torch.arange(operator.shape[0], device=operator.device))
        return (left[..., :, None] + rows + right[..., None, :]).exp()


def _apply(operator: KernelOperator, left: Tensor, right: Tensor, v: Tensor, *, transposed: bool = False) -> Tensor:
    """diag(exp left) K diag(exp right) @ v, or its transpose, without overflow; log scalings may be −inf."""
    if operator.absorbs:
        scaled = operator.scaled(left, right)
        return scaled.rmatvec(v) if transposed else scaled.matvec(v)
    outer, inner, product = (right, left, operator.log_rmatvec) if transposed else (left, right, operator.log_matvec)

    def positive(part: Tensor) -> Tensor:
        return (outer + product(inner + part.clamp(min=0).log())).exp()

    single = v.ndim == inner.ndim
    # Exponentials on their own would overflow: the two signs of each column apart, in the log domain.
    columns = [positive(column) - positive(-column) for column in (v[..., None] if single else v).unbind(-1)]
    return columns[0] if single else torch.stack(columns, dim=-1)
