"""The settings that transport solvers share, and what they make of points before they solve anything."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from atlas_kernels_builtin.exact.checks import common_batch
from atlas_kernels_builtin.exact.streaming import stream
from atlas_kernels_builtin.kernels.parts import fit
from atlas_kernels_builtin.operators import operator_of
from torch import Tensor

from atlas_core import component
from atlas_core.contracts import Kernel
from atlas_solvers_builtin.transport.problem import (
    ANOTHER_SOLVER,
    check_points,
    check_positive,
    check_weights,
    mean_cost,
    problem_of,
)

SHARE_OF_MEAN_COST = 0.05
"""The default ε, in units of the mean cost."""
A_PRICE = "set rho, on one side at least, to a finite price"
"""What to do about masses that differ, of a solver that has a price for that."""


def kernel_field(help: str = "Its −log is the transport cost.") -> Any:
    """The kernel whose −log is the cost: `gaussian`, half a squared distance, unless another is named."""
    return component("kernel", default="atlas-kernels-builtin:gaussian", help=help)


def epsilon_field(mean: str = "the mean cost of a ⊗ b") -> Any:
    """ε: a positive number, or None for `SHARE_OF_MEAN_COST` of `mean`."""
    return attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.gt(0)),
        metadata={"help": f"Weight of the entropy, in units of the cost; unset: {SHARE_OF_MEAN_COST} × {mean}."},
    )


def tolerance_field(
    default: float, help: str = "L1 error of the marginals, as a share of the mass, at which the iteration stops."
) -> Any:
    """What is accurate enough, positive."""
    return attrs.field(default=default, validator=attrs.validators.gt(0), metadata={"help": help})


def max_iterations_field(default: int, help: str) -> Any:
    """What is too long, positive; `help` says what is counted."""
    return attrs.field(default=default, validator=attrs.validators.gt(0), metadata={"help": help})


def fitted_kernel(kernel: Kernel, x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None) -> Kernel:
    """Check points x (*batch, n, d), y (*batch, m, d); return the kernel fitted to them, with a graph if it takes one.

    Raises ValueError as `check_points`, `check_positive` and `check_weights` do.
    """
    check_points(x=x, y=y)
    check_positive(kernel.has_log)
    # All that can be wrong is said here: a kernel that is fitted to points and weights takes them as they are.
    batch = common_batch(kernel, x, y)
    lengths = (points.shape[-1 - kernel.item_ndim] for points in (x, y))
    for (name, weights), length in zip((("a", a), ("b", b)), lengths, strict=True):
        if weights is not None:
            check_weights(name, weights, (*batch, length), x.device)
    return fit(kernel, x, y, *(None if weights is None else weights.to(x.dtype) for weights in (a, b)))


def mean_cost_of(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    *,
    balanced: bool = True,
    otherwise: str = ANOTHER_SOLVER,
) -> Tensor:
    """The mean cost of a fitted kernel under a ⊗ b, (*batch,), without a graph; 0 where all points coincide.

    Only rows are looked at, so an exact operator is streamed: whether there is memory to store one is not the question.
    Raises ValueError as `problem_of` does.
    """
    make = stream if getattr(kernel, "operator", None) is None else operator_of
    operator = make(kernel, x.detach(), y.detach())
    return mean_cost(problem_of(operator, a, b, balanced=balanced, otherwise=otherwise))


def scaled_kernel(
    kernel: Kernel, epsilon: float | None, x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None, *, balanced: bool
) -> tuple[Kernel, Tensor, Tensor]:
    """`fitted_kernel`, the mean cost (*batch,) and ε (*batch,), `default_epsilon` where it is unset.

    For solvers with a price for masses that differ, which may be infinite: `balanced`.
    """
    fitted = fitted_kernel(kernel, x, y, a, b)
    mean = mean_cost_of(fitted, x, y, a, b, balanced=balanced, otherwise=A_PRICE)
    return fitted, mean, default_epsilon(mean) if epsilon is None else torch.full_like(mean, epsilon)


def default_epsilon(mean: Tensor) -> Tensor:
    """ε where it is unset, of the mean cost (*batch,). Points that all coincide cost nothing, and any ε is right."""
    return torch.where(mean > 0, SHARE_OF_MEAN_COST * mean, 1.0)
