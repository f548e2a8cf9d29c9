"""The mean of squared distances between two weighted sets, and its derivatives, in linear time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 2**18
"""Coordinates whose moments are taken in one go."""


def mean_squared(x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    """Σ_ij a_i b_j |x_i − y_j|² / (Σ a Σ b) = var x + var y + |mean x − mean y|², in float64, ().

    x (*batch, n, d) and y (*batch, m, d), weights (n,) and (m,) or with the batch, uniform where None; of a batch, the
    mean over it. First derivatives alone; the graph may be gone through more than once, as it keeps no copies.
    """
    wanted = (part for part in (x, y, a, b) if part is not None)
    if torch.is_grad_enabled() and any(part.requires_grad for part in wanted):
        made: Tensor = _MeanSquared.apply(x, y, a, b)
        return made
    return _computed(x.detach(), y.detach(), a, b)[0].mean()


def _computed(x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of squared distances of each problem, (*batch,), and the means of x and of y, (*batch, d)."""
    (mean_x, variance_x), (mean_y, variance_y) = (_moments(*side) for side in ((x, a), (y, b)))
    return variance_x + variance_y + (mean_x - mean_y).square().sum(-1), mean_x, mean_y


def _moments(points: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean (*batch, d) and total variance (*batch,) of weighted points, without a copy of all of them."""
    n = points.shape[-2]
    shares = _shares(points, weights)
    step = max(1, CHUNK // (points.numel() // n))
    pieces = [slice(start, start + step) for start in range(0, n, step)]
    mean = sum((shares[..., rows, :].mT @ points[..., rows, :].double() for rows in pieces), torch.zeros(()))
    spread = torch.zeros((), dtype=torch.float64, device=points.device)
    for rows in pieces:
        apart = torch.linalg.vector_norm(points[..., rows, :].double() - mean, dim=-1, keepdim=True)
        spread = spread + (shares[..., rows, :] * apart.square()).sum((-1, -2))
    return mean[..., 0, :], spread


def _shares(points: Tensor, weights: Tensor | None) -> Tensor:
    """The weights, whose sum is 1: (n, 1) or (*batch, n, 1)."""
    if weights is None:
        n = points.shape[-2]
        return torch.full((n, 1), 1 / n, dtype=torch.float64, device=points.device)
    weights = weights.detach().double()
    return (weights / weights.sum(-1, keepdim=True))[..., None]


class _MeanSquared(torch.autograd.Function):
    """∂/∂x_i = 2 p_i (x_i − mean y), and ∂/∂a_i = (|x_i − mean y|² − Σ_k p_k |x_k − mean y|²) / Σ a, p = a / Σ a."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None) -> Tensor:
        means, mean_x, mean_y = _computed(x.detach(), y.detach(), a, b)
        # Not `save_for_backward`, which lets go of them after one pass: value and potentials share this node.
        ctx.sides = (x.detach(), a, mean_y), (y.detach(), b, mean_x)
        ctx.batch = means.shape
        return means.mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad / ctx.batch.numel()
        points, weights = zip(*(_derivatives(grad, ctx.batch, *side) for side in ctx.sides), strict=True)
        return *points, *weights


def _derivatives(
    grad: Tensor, batch: torch.Size, points: Tensor, weights: Tensor | None, other: Tensor
) -> tuple[Tensor, Tensor | None]:
    """By the points and the weights of one side, summed over what was broadcast; `other` is the other side's mean."""
    shares = _shares(points, weights)
    apart = points.double() - other[..., None, :]
    by_points = (2 * grad * shares * apart).expand(*batch, *points.shape[-2:]).sum_to_size(points.shape)
    if weights is None:
        return by_points.to(points), None
    squares = apart.square().sum(-1)
    relative = squares - (shares[..., 0] * squares).sum(-1, keepdim=True)
    by_weights = grad * relative / weights.detach().double().sum(-1, keepdim=True)
    by_weights = by_weights.expand(*batch, points.shape[-2]).sum_to_size(weights.shape)
    return by_points.to(points), by_weights.to(weights)
