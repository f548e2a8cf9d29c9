"""The average of a polynomial in the share of the way from noise to data, under the weight of the exact solution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.special import roots_legendre

from atlas_solvers_builtin.samplers.safeguard import CENTER, SCALE

_POINTS, _WEIGHTS = (torch.from_numpy(z) for z in roots_legendre(48))
_LONGEST = 40.0
"""Beyond it e^(−u) is nothing in float64."""


def logistic_average(known: Sequence[float], now: float, after: float) -> tuple[float, ...]:
    """Return c_j = ∫₀^h e^(−u) L_j(w(λ_t − u)) du / (1 − e^(−h)), with L_j the Lagrange polynomial in w; Σ c_j = 1.

    w(λ) = 1/(1 + exp(−(λ − 1)/1.1)): x̂₀ along a path is flat in pure noise, flat near the data, and turns in between.
    Polynomials in w have that shape and those in λ do not, which tells where steps in λ are long: at both ends.

    `known`: (p,) distinct and finite λ; `now`, `after`: those of the step. By 48 Gauss–Legendre points, whose error is
    that of rounding.
    """
    span = min(after - now, _LONGEST)
    u = span / 2 * (_POINTS + 1)
    weight = _WEIGHTS * torch.exp(-u)
    at = (after - u - CENTER) / (2 * SCALE)
    nodes = [(one - CENTER) / (2 * SCALE) for one in known]
    averages = []
    for j, here in enumerate(nodes):
        basis = weight / weight.sum()
        for i, there in enumerate(nodes):
            if i != j:  # (w − w_i)/(w_j − w_i), without the cancellation where w is almost 0 or 1
                basis = basis * (torch.sinh(at - there) / torch.cosh(at)) * (math.cosh(here) / math.sinh(here - there))
        averages.append(float(basis.sum()))
    return tuple(averages)
