"""The plan around given potentials, as a linear map: what sweeps and Newton steps multiply with."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import KernelOperator
from atlas_solvers_builtin.transport.problem import Problem


class Around(Protocol):
    """P_ij = a_i b_j exp((f_i + g_j − C_ij) / ε) at fixed f and g."""

    @property
    def rows(self) -> Tensor:
        """Σ_j P_ij, (*batch, n), exact whatever the storage."""
        ...

    @property
    def columns(self) -> Tensor:
        """Σ_i P_ij, (*batch, m)."""
        ...

    @property
    def storage(self) -> torch.dtype:
        """What products are rounded to."""
        ...

    def matvec(self, v: Tensor) -> Tensor:
        """P @ v."""
        ...

    def rmatvec(self, u: Tensor) -> Tensor:
        """Pᵀ @ u."""
        ...

    def gram(self, v: Tensor, weights: Tensor) -> Tensor:
        """Pᵀ diag(weights) P @ v: (*batch, m), (*batch, n) -> (*batch, m)."""
        ...

    def squares(self, u: Tensor) -> Tensor | None:
        """Σ_i P_ij² u_i, (*batch, m), where that is cheap."""
        ...


def around(
    problem: Problem, f: Tensor, g: Tensor, *, storage: torch.dtype, drop: float, accuracy: float | None = None
) -> Around:
    """Absorb the potentials into the kernel.

    `drop`: entries of P below that share of the mean entry may go. `accuracy`: what relative error entries may have,
    for operators that are faster then.
    """
    operator, (n, m), mass = problem.operator, problem.operator.shape, problem.mass[..., None]
    if not operator.absorbs:
        return _in_logarithms(problem, f, g)
    left, right = problem.scalings(f, g)
    left, right = left + (n / mass.to(left)).log(), right + math.log(m)
    more: dict[str, Any] = {"accuracy": accuracy} if accuracy is not None and takes_accuracy(operator) else {}
    # Entries hold the weights: what is small for a light point must not be dropped, or nothing is left of it.
    lightest = [torch.where(w > 0, w, torch.inf).amin() / w.amax() for w in (problem.a, problem.b)]
    drop = drop * float(lightest[0] * lightest[1]) if drop else drop
    absorbed = operator.scaled(left, right, storage=storage, drop=drop, **more)
    unit = mass / (n * m)
    rows, columns = (unit * part for part in absorbed.sums())
    return Absorbed(absorbed, storage, unit, rows, columns)


def takes_accuracy(operator: KernelOperator) -> bool:
    """Whether the operator can make scaled entries coarsely, hence faster: `scaled` then has that argument."""
    return operator.absorbs and "accuracy" in inspect.signature(operator.scaled).parameters


@attrs.frozen(eq=False)
class Absorbed:
    """P as an operator of its own: entries are stored, or made anew, relative to the mean entry of a ⊗ b.

    That is a number near 1 for any size and mass, so that float32 holds it. The weights are absorbed with the
    potentials, since the exact sums that come with an operator are then the marginals.
    """

    operator: KernelOperator
    storage: torch.dtype
    unit: Tensor
    """(*batch, 1): mass / (n m)."""
    rows: Tensor
    columns: Tensor

    def matvec(self, v: Tensor) -> Tensor:
        return self.unit * self.operator.matvec(v)

    def rmatvec(self, u: Tensor) -> Tensor:
        return self.unit * self.operator.rmatvec(u)

    def gram(self, v: Tensor, weights: Tensor) -> Tensor:
        at_once = getattr(self.operator, "gram", None)
        if at_once is None:
            return self.rmatvec(weights * self.matvec(v))
        product: Tensor = self.unit.square() * at_once(v, weights)
        return product

    def squares(self, u: Tensor) -> Tensor | None:
        product = getattr(self.operator, "squared_rmatvec", None)
        return None if product is None else self.unit.square() * product(u)


@attrs.frozen(eq=False)
class InLogarithms:
    """P of an operator that cannot absorb: its products are taken in the log domain, one for each sign of a vector."""

    operator: KernelOperator
    left: Tensor
    right: Tensor
    rows: Tensor
    columns: Tensor

    @property
    def storage(self) -> torch.dtype:
        return self.operator.dtype

    def matvec(self, v: Tensor) -> Tensor:
        return signed_product(self.operator.log_matvec, self.left, self.right, v)

    def rmatvec(self, u: Tensor) -> Tensor:
        return signed_product(self.operator.log_rmatvec, self.right, self.left, u)

    def gram(self, v: Tensor, weights: Tensor) -> Tensor:
        return self.rmatvec(weights * self.matvec(v))

    def squares(self, u: Tensor) -> Tensor | None:
        return None


def _in_logarithms(problem: Problem, f: Tensor, g: Tensor) -> InLogarithms:
    operator, left, right = problem.operator, problem.left(f), problem.right(g)
    rows, columns = (left + operator.log_matvec(right)).exp(), (right + operator.log_rmatvec(left)).exp()
    return InLogarithms(operator, left, right, rows, columns)


def signed_product(log_product: Callable[[Tensor], Tensor], outer: Tensor, inner: Tensor, vector: Tensor) -> Tensor:
    """diag(exp outer) K diag(exp inner) @ vector without overflow: (*batch, m) or (*batch, m, k).

    Exponentials on their own would overflow: the two signs of each column apart, in the log domain.
    """

    def positive(part: Tensor) -> Tensor:
        return (outer + log_product(inner + part.clamp(min=0).log())).exp()

    single = vector.ndim == inner.ndim
    columns = [positive(c) - positive(-c) for c in (vector[..., None] if single else vector).unbind(-1)]
    return columns[0] if single else torch.stack(columns, dim=-1)
