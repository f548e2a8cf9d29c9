"""Preconditioned conjugate gradients, for the problems of a batch side by side: what every Newton step solves with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LinearMap = Callable[[Tensor], Tensor]
"""(*batch, m) -> (*batch, m), symmetric and positive semi-definite."""


def conjugate_gradients(
    system: LinearMap,
    inverse: LinearMap,
    rhs: Tensor,
    goal: Tensor,
    going: Tensor,
    *,
    limit: int | Tensor,
    check_every: int,
) -> tuple[Tensor, Tensor]:
    """Solve system(z) = rhs, z and rhs (*batch, m), until the L1 norm of the residual is below `goal` (*batch,).

    `inverse` is near the system's, and preconditions. Of the problems that are `going` (*batch,); one that has arrived,
    met rounding (no positive curvature) or made `limit` steps stands still. The host looks once every `check_every`
    steps. Also return the steps made, (*batch,). (Hestenes & Stiefel 1952)
    """
    z, residual, direction = torch.zeros_like(rhs), rhs, torch.zeros_like(rhs)
    old = None
    steps = torch.zeros_like(going, dtype=torch.int64)
    going = going & (residual.abs().sum(-1) > goal)
    while True:
        for _ in range(check_every):
            conditioned = inverse(residual)
            product = _inner(residual, conditioned)
            if old is None:
                direction = conditioned
            else:
                # What stands still may have a residual of 0, hence no ratio.
                direction = torch.addcmul(conditioned, torch.where(going, product / old, 0.0)[..., None], direction)
            image, old = system(direction), product
            curvature = _inner(direction, image)
            going = going & (curvature > 0)
            length = torch.where(going, product / curvature, 0.0)[..., None]
            z, residual = torch.addcmul(z, length, direction), torch.addcmul(residual, length, image, value=-1)
            steps = steps + going
            going = going & (residual.abs().sum(-1) > goal) & (steps < limit)
        if not bool(going.any()):
            return z, steps


def _inner(x: Tensor, y: Tensor) -> Tensor:
    return x @ y if x.ndim == 1 else (x * y).sum(-1)
