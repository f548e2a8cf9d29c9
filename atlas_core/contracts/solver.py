"""The kind `solver`: finds a coupling, potentials or a bridge between two distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.contracts.kernel import KernelOperator


@runtime_checkable
class Coupling(Protocol):
    """A transport plan P (n, m) that is never formed unless by `plan`."""

    @property
    def marginals(self) -> tuple[Tensor, Tensor]:
        """Row and column sums of the plan as returned: (*batch, n), (*batch, m)."""
        ...

    @property
    def cost(self) -> Tensor:
        """⟨P, C⟩, (*batch,)."""
        ...

    def matvec(self, v: Tensor) -> Tensor:
        """P @ v."""
        ...

    def rmatvec(self, u: Tensor) -> Tensor:
        """Pᵀ @ u."""
        ...

    def barycentric_map(self, z: Tensor | None = None) -> Tensor:
        """Where each source point, or each new point z (k, d), goes on average."""
        ...

    def plan(self) -> Tensor:
        """P itself, (*batch, n, m)."""
        ...


@runtime_checkable
class EntropicSolution(Coupling, Protocol):
    """plan_ij = a_i b_j exp((f_i + g_j − C_ij) / ε).

    Zero weights are legal: f there is the c-transform, the row of the plan is 0.
    """

    @property
    def f(self) -> Tensor:
        """(*batch, n), no graph."""
        ...

    @property
    def g(self) -> Tensor:
        """(*batch, m), no graph."""
        ...

    @property
    def value(self) -> Tensor:
        """⟨P, C⟩ + ε KL(P | a ⊗ b), (*batch,); differentiable in x, y, a, b, ε by the envelope theorem."""
        ...

    @property
    def status(self) -> tuple[str, ...]:
        """`converged`, `max-iterations`, `stalled` or `non-finite`, one a problem: words are no tensor, so those of a
        batch are flattened, in the order of `converged.flatten()`."""
        ...

    @property
    def converged(self) -> Tensor:
        """(*batch,), bool."""
        ...

    @property
    def marginal_error(self) -> Tensor:
        """(*batch,): the larger L1 error of the two marginals, measured on the plan as returned."""
        ...

    @property
    def marginal_errors(self) -> tuple[Tensor, Tensor]:
        """(*batch,) each: the L1 errors of rows and columns apart."""
        ...

    @property
    def gap(self) -> Tensor:
        """(*batch,): the primal objective at the plan as returned less the dual one at (f, g)."""
        ...

    @property
    def iterations(self) -> int: ...

    @property
    def matvecs(self) -> int: ...

    @property
    def history(self) -> list[float]:
        """The largest error of the batch, as a share of the mass, each time the iteration looked."""
        ...

    @property
    def seconds(self) -> float: ...

    @property
    def peak_bytes(self) -> int | None:
        """Most memory that the solve had beyond what there was before; None where the system does not tell."""
        ...


@runtime_checkable
class Solver(Protocol):
    """Its kernel or cost is part of its config."""

    def solve(
        self, x: Tensor, y: Tensor, *, a: Tensor | None = None, b: Tensor | None = None, init: Any = None
    ) -> Coupling:
        """Couple x (n, d) with weights a (n,) and y (m, d) with weights b (m,); uniform where None."""
        ...

    def solve_operator(
        self,
        operator: KernelOperator,
        *,
        a: Tensor | None = None,
        b: Tensor | None = None,
        init: Any = None,
        y: Tensor | None = None,
    ) -> Coupling:
        """The same for a given operator: grids, graphs, a cost matrix.

        y (m, d) is needed by `barycentric_map` alone.
        """
        ...
