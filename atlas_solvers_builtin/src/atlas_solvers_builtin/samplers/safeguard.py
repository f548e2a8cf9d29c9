"""How far ahead the known predictions tell the next: what keeps a sampler of high order from being worse than Euler."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import attrs
from attrs.validators import gt

CENTER, SCALE = 1.0, 1.1
"""Of the logistic function in λ = ½ log-SNR along which predictions turn from noise to data: about σ/α = e^(−1)."""
REACH, REACH_UNMENDED, SLACK = 0.15, 0.125, 2.0
"""Fitted to mixtures of Gaussians, with and without guidance, from 3 to 50 steps (`benchmarks/samplers.py`)."""


def reach_field(default: float = REACH) -> float:
    """Return the setting `reach` that samplers of high order share."""
    field: float = attrs.field(
        default=default,
        validator=gt(0),
        metadata={
            "help": "Share of the way from noise to data over which x̂₀ can be extrapolated; 1: any, as published."
        },
    )
    return field


def progress(now: float, after: float) -> float:
    """Return Δw from one finite λ to a later one; w(λ) = 1/(1 + exp(−(λ − 1)/1.1)) is 0 in noise and 1 in data."""
    start, end = ((one - CENTER) / (2 * SCALE) for one in (now, after))
    # The difference of two tanh, which would cancel where both are almost 1.
    return math.sinh(end - start) / (2 * math.cosh(start) * math.cosh(end))


def amplification_limit(now: float, after: float, reach: float) -> float:
    """Return the most that a step from λ = `now` to `after` may amplify errors: 1 + 2 (reach/Δw − 1), and 1 at least.

    No limit, ∞, is what a reach of 1 stands for: all the way.

    A step that covers `reach` of the way has to do with the latest prediction alone. The shorter the step, the more
    alike are the errors of the predictions that it looks back on, and the less their amplification matters.
    """
    if reach >= 1:
        return math.inf
    return max(1.0, 1 + SLACK * (reach / progress(now, after) - 1))


def mended(shares: tuple[float, ...], now: float, after: float, reach: float) -> tuple[float, ...]:
    """Return the shares of a step with the prediction at its end, which comes first: all of it up to Δw = reach.

    From there its part falls, to none at 1.2 reach: it was made at a state that a long step has missed.
    """
    rest = shares[0] * min(1.0, max(0.0, 5 * (progress(now, after) / reach - 1)))
    return shares[0] - rest, shares[1] + rest, *shares[2:]


def highest_order(
    limit: float, known: Sequence[float], shares_of: Callable[[Sequence[float]], tuple[float, ...]], least: int = 1
) -> tuple[float, ...]:
    """Return the shares c_j of the highest order with Σ|c_j| ≤ limit, and as much of the next as there is room for.

    `known`: what `shares_of` takes the first `least`, `least` + 1, … of, latest first. Extrapolation amplifies errors
    of predictions by Σ|c_j|, 1 + h/h' for a line through two of them. Signs alternate, so that of a blend is the blend
    of both.
    """
    above: tuple[float, ...] | None = None
    for depth in range(len(known), least - 1, -1):  # downwards, since most steps have room for the whole order
        shares = shares_of(known[:depth])
        amplified = sum(map(abs, shares))
        if amplified <= limit or depth == least:
            break
        above = shares
    if above is None:
        return shares
    part = max(0.0, (limit - amplified) / (sum(map(abs, above)) - amplified))
    return tuple(part * c + (1 - part) * b for c, b in zip(above, (*shares, 0.0), strict=True))
