"""The plan of a low-rank solve: two thin factors, and products in linear time."""

from __future__ import annotations

import attrs
import torch
from atlas_kernels_builtin.exact.checks import check_real
from torch import Tensor

from atlas_core.contracts import Kernel
from atlas_solvers_builtin.transport.inputs_as_solved import InputsAsSolved
from atlas_solvers_builtin.transport.items import as_items, mapped_rows, operator_from
from atlas_solvers_builtin.transport.low_rank.cost_products import cost_products
from atlas_solvers_builtin.transport.problem import Problem


@attrs.frozen(eq=False)
class LowRankCoupling:
    """Carry mass through r intermediate points: P = Q diag(1 / w) Rᵀ (satisfies `Coupling`)."""

    problem: Problem = attrs.field(repr=False)
    out: Tensor = attrs.field(repr=False)
    """(*batch, n, r): the share of its mass that each source sends to each intermediate point; rows sum to 1."""
    into: Tensor = attrs.field(repr=False)
    """(*batch, m, r): the share that each target has from it."""
    w: Tensor = attrs.field(repr=False)
    """(*batch, r): the mass that passes through it."""
    levels: tuple[Tensor, Tensor] = attrs.field(repr=False)
    """(*batch, r) each: dual potentials of the intermediate points, in units of the cost; a source is sent to those of
    least mean cost − level, and a target served by those of least mean cost − the other level."""
    value: Tensor
    """⟨P, C⟩, (*batch,), at least that of the best plan of this rank; differentiable in x and y, at fixed P."""
    marginal_error: Tensor
    """(*batch,): the larger L1 distance of the two marginals from a and b."""
    status: tuple[str, ...]
    """`converged`: the cost no longer falls; `max-iterations` or `non-finite`; one a problem."""
    converged: Tensor
    """(*batch,), bool."""
    iterations: int
    history: list[float] = attrs.field(repr=False)
    """The largest ⟨P, C⟩ of the batch after each step, in units of the mean cost."""
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
    def q(self) -> Tensor:
        """Q, (*batch, n, r): the mass that goes from each source to each intermediate point."""
        self.inputs.check()
        return self.problem.a[..., None] * self.out

    @property
    def r(self) -> Tensor:
        """R, (*batch, m, r): the mass that goes from it to each target."""
        self.inputs.check()
        return self.problem.b[..., None] * self.into

    @property
    def marginals(self) -> tuple[Tensor, Tensor]:
        """Row and column sums of P: (*batch, n), (*batch, m)."""
        return self.matvec(torch.ones_like(self.problem.b)), self.rmatvec(torch.ones_like(self.problem.a))

    def matvec(self, v: Tensor) -> Tensor:
        """P @ v in O((n + m) r): (*batch, m) or (*batch, m, k) -> (*batch, n) or (*batch, n, k)."""
        return self._through(self.r, self.q, v)

    def rmatvec(self, u: Tensor) -> Tensor:
        """Pᵀ @ u: (*batch, n) or (*batch, n, k) -> (*batch, m) or (*batch, m, k)."""
        return self._through(self.q, self.r, u)

    def _through(self, source: Tensor, target: Tensor, v: Tensor) -> Tensor:
        check_real(v)
        if v.ndim == self.w.ndim:
            return self._through(source, target, v[..., None])[..., 0]
        return target.to(v.dtype) @ ((source.mT.to(v.dtype) @ v) / self.w.to(v.dtype)[..., None])

    @torch.no_grad()
    def barycentric_map(self, z: Tensor | None = None) -> Tensor:
        """Where each point goes on average, (*batch, n, d); or where new points z (*batch, k, d) go.

        A new point passes through the intermediate point of least mean cost less its level.
        Raises ValueError where the points, or for z the kernel, were never given: see `solve_operator`.
        """
        self.inputs.check()
        rows, item = mapped_rows(self.y, self.problem.operator, self.kernel, z)
        centres = (self.r.mT @ rows) / self.w[..., None]
        if z is None:
            return as_items(self.out @ centres, item)
        operator = operator_from(z, self.y, self.problem.operator, self.kernel)
        costs = cost_products(self.kernel, z, as_items(rows, item), operator)
        nothing = rows.new_zeros(*operator.batch_shape, operator.shape[0], 1)
        mean = costs.both(self.r / self.w[..., None, :], nothing)[0]
        nearest = (mean - self.levels[0][..., None, :]).argmin(-1)[..., None]
        chosen = centres.gather(-2, nearest.expand(*nearest.shape[:-1], rows.shape[-1]))
        return as_items(chosen, item)

    @torch.no_grad()
    def plan(self) -> Tensor:
        """P itself, (*batch, n, m)."""
        return (self.q / self.w[..., None, :]) @ self.r.mT
