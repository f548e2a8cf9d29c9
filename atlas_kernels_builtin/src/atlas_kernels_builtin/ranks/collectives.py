"""Sums over the ranks of a distributed run that gradients pass through.

Values are the same on every rank except where a rank works on its own part. Where such a part begins (`SharedInput`),
the gradients of all ranks add up; where it ends (`total`), each has the whole gradient already (Shoeybi et al. 2019,
section 3: the operators f and g).
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function


class SharedInput(Function):
    """The identity; backward, the sum of every rank's gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum(gradient)


class _Total(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _sum(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def total(value: Tensor) -> Tensor:
    """Sum of every rank's value; backward, the identity."""
    out: Tensor = _Total.apply(value)
    return out


def total_logsumexp(value: Tensor) -> Tensor:
    """log Σ exp(value) over the ranks, without overflow."""
    largest = value.detach().clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    largest = largest.where(largest.isfinite(), 0.0)  # −inf everywhere is −inf, not NaN
    return total((value - largest).exp()).log() + largest


def _sum(value: Tensor) -> Tensor:
    out = value.detach().clone()  # the collective works in place
    if not out.is_contiguous():
        out = out.contiguous()
    dist.all_reduce(out)
    return out
