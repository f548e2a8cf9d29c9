"""The plan of a solver that uses few pairs: which ones, and the mass that each carries."""

from __future__ import annotations

import math

import attrs
import torch
from atlas_kernels_builtin.exact.checks import check_real
from torch import Tensor

from atlas_core.contracts import Kernel, KernelOperator
from atlas_solvers_builtin.transport.inputs_as_solved import InputsAsSolved
from atlas_solvers_builtin.transport.items import as_items, mapped_rows, operator_from
from atlas_solvers_builtin.transport.problem import Problem


@attrs.frozen(eq=False)
class SparseCoupling:
    """Carry mass along the pairs (row, column) of a plan that is zero elsewhere (satisfies `Coupling`)."""

    problem: Problem = attrs.field(repr=False)
    """What was solved, without a graph."""
    batch: Tensor = attrs.field(repr=False)
    """(k,), int64: the problem, counted through the flattened batch, that each pair belongs to."""
    rows: Tensor = attrs.field(repr=False)
    """(k,), int64: the source of each pair."""
    columns: Tensor = attrs.field(repr=False)
    """(k,), int64: its target."""
    masses: Tensor = attrs.field(repr=False)
    """(k,): the mass that goes from one to the other, without a graph."""
    f: Tensor = attrs.field(repr=False)
    """(*batch, n): dual potential, f_i + g_j ≤ C_ij with equality on the pairs; the c-transform of g where a_i = 0."""
    g: Tensor = attrs.field(repr=False)
    """(*batch, m)."""
    value: Tensor
    """⟨P, C⟩, (*batch,); differentiable in x, y, a, b by the envelope theorem: at fixed P, f and g."""
    duality_gap: Tensor
    """(*batch,): ⟨P, C⟩ − ⟨a, f⟩ − ⟨b, g⟩: as f and g are feasible, no plan is cheaper by more."""
    marginal_error: Tensor
    """(*batch,): the larger L1 distance of the two marginals from a and b."""
    status: tuple[str, ...]
    """`converged`, or `max-iterations`, one a problem."""
    converged: Tensor
    """(*batch,), bool."""
    seconds: float
    y: Tensor | None = attrs.field(default=None, repr=False)
    kernel: Kernel | None = attrs.field(default=None, repr=False)
    inputs: InputsAsSolved = attrs.field(factory=InputsAsSolved, repr=False)
    """The caller's points and weights: what is computed when asked for is refused once they were changed in place."""

    @property
    def cost(self) -> Tensor:
        """⟨P, C⟩, (*batch,): the value itself."""
        return self.value

    @property
    def marginals(self) -> tuple[Tensor, Tensor]:
        """Row and column sums of P: (*batch, n), (*batch, m)."""
        ones = [torch.ones_like(weights) for weights in (self.problem.a, self.problem.b)]
        return self.matvec(ones[1]), self.rmatvec(ones[0])

    def matvec(self, v: Tensor) -> Tensor:
        """P @ v: (*batch, m) or (*batch, m, k) -> (*batch, n) or (*batch, n, k); differentiable in v."""
        n, m = self.problem.operator.shape
        return self._apply(v, self.rows, n, self.columns, m)

    def rmatvec(self, u: Tensor) -> Tensor:
        """Pᵀ @ u: (*batch, n) or (*batch, n, k) -> (*batch, m) or (*batch, m, k)."""
        n, m = self.problem.operator.shape
        return self._apply(u, self.columns, m, self.rows, n)

    def _apply(self, v: Tensor, into: Tensor, size: int, out_of: Tensor, length: int) -> Tensor:
        check_real(v)
        shape = self.problem.operator.batch_shape
        if v.shape[: len(shape) + 1] != (*shape, length) or v.ndim > len(shape) + 2:
            wanted = (*shape, length)
            raise ValueError(f"a vector of shape {wanted}, or with one more dimension, is needed: {tuple(v.shape)}")
        single = v.ndim == len(shape) + 1
        flat = v.reshape(-1, 1 if single else v.shape[-1])
        carried = self.masses[:, None].to(v.dtype) * flat[self.batch * length + out_of]
        out = flat.new_zeros(math.prod(shape) * size, flat.shape[-1])
        out = out.index_add(0, self.batch * size + into, carried).reshape(*shape, size, flat.shape[-1])
        return out[..., 0] if single else out

    @torch.no_grad()
    def barycentric_map(self, z: Tensor | None = None) -> Tensor:
        """Where each point goes on average, (*batch, n, d); or where new points z (*batch, k, d) go.

        A new point, and one of weight 0, goes where the potential sends it, to the y_j of least C(z, y_j) − g_j.
        Raises ValueError where the points, or for z the kernel, were never given: see `solve_operator`.
        """
        self.inputs.check()
        operator, sources = self.problem.operator, self.problem.a
        y, item = mapped_rows(self.y, operator, self.kernel, z)
        if z is not None:
            return as_items(self._send(operator_from(z, self.y, operator, self.kernel), y), item)
        mass = self.marginals[0][..., None]
        average = self.matvec(y) / mass
        if not bool((sources > 0).all()):
            average = torch.where(mass > 0, average, self._send(operator, y))
        return as_items(average, item)

    def _send(self, operator: KernelOperator, y: Tensor) -> Tensor:
        """The y_j of least C_ij − g_j among those of positive weight, for each row of the operator."""
        excess = torch.where(self.problem.b > 0, self.g, -torch.inf)[..., None, :] - costs(operator)
        best = excess.argmax(-1)[..., None].expand(*excess.shape[:-1], y.shape[-1])
        return y.gather(-2, best)

    @torch.no_grad()
    def plan(self) -> Tensor:
        """P itself, (*batch, n, m)."""
        shape, (n, m) = self.problem.operator.batch_shape, self.problem.operator.shape
        out = self.masses.new_zeros(math.prod(shape), n, m)
        return out.index_put((self.batch, self.rows, self.columns), self.masses, accumulate=True).reshape(*shape, n, m)


def costs(operator: KernelOperator) -> Tensor:
    """The cost matrix C = −ε log K, (*batch, n, m), with the graph of the points."""
    rows = operator.log_rows(torch.arange(operator.shape[0], device=operator.device))
    return -torch.as_tensor(operator.epsilon, dtype=rows.dtype, device=rows.device)[..., None, None] * rows
