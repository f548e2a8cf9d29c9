"""Draws from a law that is known by its Laplace transform alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

NODES = 24
"""Of the contour: the error falls as 10^(−0.6 NODES), and rounding grows as exp(0.4 NODES) times its own."""
TABLE = 2048


def tabulate(transform: Callable[[Tensor], Tensor], low: float, high: float) -> tuple[Tensor, Tensor]:
    """Points t between `low` and `high` and P(T ≤ t) there, for T > 0 with E exp(−s T) = transform(s).

    `transform` takes complex s off the negative axis. Not for laws that are nearly one number.
    """
    t = torch.logspace(math.log10(low), math.log10(high), TABLE, dtype=torch.float64)
    return t, _distribution(transform, t).clamp(0, 1).cummax(0).values


def draw(table: tuple[Tensor, Tensor], count: int, generator: torch.Generator) -> Tensor:
    """Draw from a tabulated law, (count,), by the inverse of its distribution function."""
    t, below = table
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    index = torch.searchsorted(below, uniform).clamp(1, TABLE - 1)
    start, end = below[index - 1], below[index]
    part = ((uniform - start) / (end - start).clamp(min=1e-300)).clamp(0, 1)
    return (t[index - 1].log() * (1 - part) + t[index].log() * part).exp()


def _distribution(transform: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """P(T ≤ x), the inverse transform of transform(s) / s along Talbot's contour (Abate & Valkó 2004, section 3)."""
    theta = torch.arange(1, NODES, dtype=torch.float64) * (math.pi / NODES)
    cotangent = 1 / theta.tan()
    radius = 0.4 * NODES / x[:, None]
    s = radius * theta * torch.complex(cotangent, torch.ones_like(cotangent))
    slope = torch.complex(torch.ones_like(theta), theta + (theta * cotangent - 1) * cotangent)
    inner = ((x[:, None] * s).exp() * transform(s) / s * slope).real.sum(-1)
    real = torch.complex(radius[:, 0], torch.zeros_like(x))
    return radius[:, 0] / NODES * (0.5 * math.exp(0.4 * NODES) * (transform(real) / real).real + inner)
