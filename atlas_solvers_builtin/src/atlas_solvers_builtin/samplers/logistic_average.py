"""The average of a polynomial in the share of the way from noise to data, under the weight of the exact solution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from scipy.special import roots_legendre

from atlas_solvers_builtin.samplers.safeguard import CENTER, SCALE

_LONGEST = 40.0
"""Beyond it e^(−u) is nothing in float64."""


def logistic_average(known: Sequence[float], now: float, after: float) -> tuple[float, ...]:
    """Return c_j = ∫₀^h e^(−u) L_j(w(λ_t − u)) du / (1 − e^(−h)), with L_j the Lagrange polynomial in w; Σ c_j = 1.

    w(λ) = 1/(1 + exp(−(λ − 1)/1.1)): x̂₀ along a path is flat in pure noise, flat near the data, and turns in between.
    Polynomials in w have that shape and those in λ do not, which tells where steps in λ are long: at both ends.

    `known`: (p,) distinct and finite λ; `now`, `after`: those of the step. By Gauss–Legendre points, so many that their
    error is that of rounding: the integrand has its poles at a distance of π · 1.1 from the real line. In plain
    numbers: for so few, tensors take ten times as long.
    """
    span = min(after - now, _LONGEST)
    nodes = [(one - CENTER) / (2 * SCALE) for one in known]
    averages = [0.0] * len(nodes)
    total = 0.0
    for point, weight in _points(6 if span <= 1 else 10 if span <= 2 else 16 if span <= 4 else 48):
        u = span * point
        at = (after - u - CENTER) / (2 * SCALE)
        weight *= math.exp(-u)
        total += weight
        # (w − w_i)/(w_j − w_i) without the cancellation where w is almost 0 or 1; what depends on j alone comes last.
        rises = [math.sinh(at - node) / math.cosh(at) for node in nodes]
        for j in range(len(nodes)):
            averages[j] += weight * math.prod(rises[:j]) * math.prod(rises[j + 1 :])
    return tuple(
        average * math.prod(math.cosh(here) / math.sinh(here - there) for there in nodes if there != here) / total
        for average, here in zip(averages, nodes, strict=True)
    )


@lru_cache(maxsize=8)
def _points(count: int) -> list[tuple[float, float]]:
    """Points and weights on [0, 1]."""
    points, weights = roots_legendre(count)
    return [((float(point) + 1) / 2, float(weight) / 2) for point, weight in zip(points, weights, strict=True)]
