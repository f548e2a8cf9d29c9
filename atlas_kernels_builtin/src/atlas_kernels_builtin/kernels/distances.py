"""Distances of points without the cancellation of |x|² − 2xy + |y|², and roots of them with a gradient everywhere."""

from __future__ import annotations

import torch
from torch import Tensor


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i − y_j|², exactly 0 for equal points: (n, d), (m, d) -> (n, m)."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def distance(squared: Tensor) -> Tensor:
    """√squared, with derivative 0 at 0 (a subgradient of |x − y|) instead of infinity; without a graph, in place."""
    if not (torch.is_grad_enabled() and squared.requires_grad):
        return squared.sqrt_()
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)
