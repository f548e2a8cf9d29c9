"""What a polynomial through known predictions is on average over a step, under the weight of the exact solution."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.special import gammainc


def exponential_average(nodes: Sequence[float], span: float) -> tuple[float, ...]:
    """Return c_j = ∫₀^span e^(−u) L_j(u) du / (1 − e^(−span)), with L_j the Lagrange polynomial of node j; Σ c_j = 1.

    The probability-flow ODE in λ = ½ log-SNR, solved exactly but for x̂₀, is
    x_t = keep · x_s + pull · ∫ x̂₀ e^(−u) du / (1 − e^(−h)), u = λ_t − λ running over the step's h: with x̂₀ replaced by
    the polynomial through earlier predictions at u_j it is keep · x_s + pull · Σ c_j x̂₀_j, exact for polynomials.

    `nodes`: (p,) distinct and finite; `span` > 0. The moments ∫₀^h e^(−u) u^k du = k! P(k + 1, h) are incomplete gamma
    functions, which lose no digits for short steps.
    """
    weight = -math.expm1(-span)
    moments = [math.factorial(k) * float(gammainc(k + 1, span)) / span**k / weight for k in range(len(nodes))]
    averages = []
    for j, here in enumerate(nodes):
        polynomial = [1.0]  # in u / span, lowest power first
        for i, there in enumerate(nodes):
            if i != j:
                gap = (here - there) / span
                shifted, lower = [0.0, *polynomial], [*polynomial, 0.0]
                polynomial = [(up - there / span * low) / gap for up, low in zip(shifted, lower, strict=True)]
        averages.append(sum(c * moment for c, moment in zip(polynomial, moments, strict=True)))
    return tuple(averages)
