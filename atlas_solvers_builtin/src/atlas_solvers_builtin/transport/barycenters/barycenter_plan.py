"""A barycenter with its couplings."""

from __future__ import annotations

import math
import warnings

import attrs
from torch import Tensor

from atlas_solvers_builtin.transport.solution import EntropicPlan


@attrs.frozen(eq=False)
class BarycenterPlan:
    """A barycenter of k inputs, and the plans P_k that couple it with them (a `Coupling` of batch shape (k,)).

    Its k couplings are one problem, solved together: `status`, `converged` and `marginal_error` are one word, truth
    value and number, not one a coupling; those, (k,) each, are in `couplings`.
    """

    weights: Tensor = attrs.field(repr=False)
    """a, (n,): of the inputs' mass."""
    points: Tensor | None = attrs.field(repr=False)
    """(n, d): where the mass lies; None where an operator was given."""
    couplings: EntropicPlan
    """P_k, first marginals `weights`, second ones the inputs': batch shape (k,)."""
    shares: Tensor
    """w_k, (k,), of sum 1."""
    value: Tensor
    """Σ_k w_k OT_ε(a, b_k), (): what a free support minimises. The objective of a fixed one differs by entropies."""
    status: str
    """`converged`, `max-iterations` or `non-finite`."""
    marginal_error: float
    """The largest L1 error of a marginal of a plan, as a share of the mass, measured on the plans as returned."""
    iterations: int
    history: list[float] = attrs.field(repr=False)
    """The error after each iteration; free support: the move of the points in units of their spread."""
    seconds: float

    @property
    def converged(self) -> bool:
        return self.status == "converged"

    @property
    def epsilon(self) -> Tensor:
        return self.couplings.epsilon

    @property
    def marginals(self) -> tuple[Tensor, Tensor]:
        """(k, n), (k, m): row and column sums of the plans."""
        return self.couplings.marginals

    @property
    def cost(self) -> Tensor:
        """⟨P_k, C_k⟩, (k,)."""
        return self.couplings.cost

    def matvec(self, v: Tensor) -> Tensor:
        """P_k @ v_k: (k, m) or (k, m, c) -> (k, n) or (k, n, c)."""
        return self.couplings.matvec(v)

    def rmatvec(self, u: Tensor) -> Tensor:
        """P_kᵀ @ u_k: (k, n) or (k, n, c) -> (k, m) or (k, m, c)."""
        return self.couplings.rmatvec(u)

    def barycentric_map(self, z: Tensor | None = None) -> Tensor:
        """Where each point of the barycenter goes on average in each input: (k, n, d)."""
        return self.couplings.barycentric_map(z)

    def plan(self) -> Tensor:
        """The P_k themselves, (k, n, m)."""
        return self.couplings.plan()


def warned(plan: BarycenterPlan, tolerance: float) -> BarycenterPlan:
    """The plan; said once, to who called the caller, that it has not converged, and what to try."""
    if not plan.converged:
        last = plan.history[-1] if plan.history else math.nan
        warnings.warn(
            f"barycenter: not converged ({plan.status}) after {plan.iterations} iterations: error {last:.1e}, "
            f"tolerance {tolerance:.1e}, epsilon {float(plan.epsilon.max()):.3g}. Next: raise max_iterations, or "
            "epsilon.",
            RuntimeWarning,
            stacklevel=4,
        )
    return plan
