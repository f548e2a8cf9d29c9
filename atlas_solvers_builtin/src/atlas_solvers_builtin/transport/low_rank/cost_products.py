"""Products with the cost matrix itself, C V and Cᵀ U for some columns, without forming it."""

from __future__ import annotations

import math
from typing import Protocol

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Kernel, KernelOperator

CHUNK = 2**22
"""Entries of C that are looked at together."""


class CostProducts(Protocol):
    """The linear map C (*batch, n, m)."""

    def both(self, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """C v and Cᵀ u: (*batch, m, r), (*batch, n, r) -> (*batch, n, r), (*batch, m, r)."""
        ...


@attrs.frozen(eq=False)
class SquaredDistances:
    """C = c |x − y|² = c (|x|² + |y|² − 2 ⟨x, y⟩), of rank d + 2: products in linear time."""

    x: Tensor
    """(*batch, n, d), centred: the expansion cancels the less."""
    y: Tensor
    rate: Tensor
    """c, ()."""

    def both(self, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        return self._one(self.x, self.y, v), self._one(self.y, self.x, u)

    def _one(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        squares = [points.square().sum(-1, keepdim=True) for points in (x, y)]
        constant = v.sum(-2, keepdim=True)
        return self.rate * (squares[0] * constant + (squares[1] * v).sum(-2, keepdim=True) - 2 * x @ (y.mT @ v))


@attrs.frozen(eq=False)
class StreamedCosts:
    """C = −ε log K, some rows at a time: O(n m) time for any kernel, O(n + m) memory."""

    operator: KernelOperator

    def both(self, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        operator, (n, m) = self.operator, self.operator.shape
        rows = max(1, CHUNK // (m * math.prod(operator.batch_shape)))
        epsilon = torch.as_tensor(operator.epsilon, dtype=v.dtype, device=v.device)[..., None, None]
        pieces, back = [], torch.zeros_like(v)
        for index in torch.split(torch.arange(n, device=operator.device), rows):
            costs = -operator.log_rows(index)
            pieces.append(costs @ v)
            back = back + costs.mT @ u[..., index, :]
        return epsilon * torch.cat(pieces, dim=-2), epsilon * back


def cost_products(kernel: Kernel | None, x: Tensor, y: Tensor, operator: KernelOperator) -> CostProducts:
    """In linear time where the cost is a squared distance, which its kernel says in `quadratic`, else streamed."""
    if kernel is None or not hasattr(kernel, "quadratic"):
        return StreamedCosts(operator)
    rate: Tensor = -kernel.log_radial(torch.ones_like(x[..., 0, 0]).flatten()[0])  # type: ignore[attr-defined]
    shape = operator.batch_shape
    centre = y.detach().mean(-2, keepdim=True)
    x, y = (points.expand(*shape, *points.shape[-2:]) for points in (x - centre, y - centre))
    return SquaredDistances(x, y, rate)
