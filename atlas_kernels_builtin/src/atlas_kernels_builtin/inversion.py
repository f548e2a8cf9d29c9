"""Draws from a law that is known by its Laplace transform alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

NODES = 24
"""Of the contour: the error falls as 10^(−0.6 NODES), and rounding grows as exp(0.4 NODES) times its own."""
TABLE = 2048


def draw_by_transform(
    transform: Callable[[Tensor], Tensor], count: int, generator: torch.Generator, *, low: float, high: float
) -> Tensor:
    """Draw T > 0 with E exp(−s T) = transform(s), (count,), by the inverse of its distribution function.

    `transform` takes complex s off the negative axis. The function is tabulated between `low` and `high`, which should
    leave out no probability that counts; draws beyond are moved there. Not for laws that are nearly one number.
    """
    x = torch.logspace(math.log10(low), math.log10(high), TABLE, dtype=torch.float64)
    below = _distribution(transform, x).clamp(0, 1).cummax(0).values
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    index = torch.searchsorted(below, uniform).clamp(1, TABLE - 1)
    start, end = below[index - 1], below[index]
    part = ((uniform - start) / (end - start).clamp(min=1e-300)).clamp(0, 1)
    return (x[index - 1].log() * (1 - part) + x[index].log() * part).exp()


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
