"""What a polynomial through known predictions is on average over a step, under the weight of the exact solution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import gammainc


def exponential_average(nodes: Sequence[float], span: float) -> tuple[float, ...]:
    """Return c_j = ∫₀^span e^(−u) L_j(u) du / (1 − e^(−span)), with L_j the Lagrange polynomial of node j; Σ c_j = 1.

    The probability-flow ODE in λ = ½ log-SNR, solved exactly but for x̂₀, is
    x_t = keep · x_s + pull · ∫ x̂₀ e^(−u) du / (1 − e^(−h)), u = λ_t − λ running over the step's h: with x̂₀ replaced by
    the polynomial through earlier predictions at u_j it is keep · x_s + pull · Σ c_j x̂₀_j, exact for polynomials.

    `nodes`: (p,) distinct and finite; `span` > 0. The moments ∫₀^h e^(−u) u^k du = k! P(k + 1, h) are incomplete gamma
    functions, which lose no digits for short steps.
    """
    powers = range(len(nodes))
    weight = -math.expm1(-span)
    moments = np.array([math.factorial(k) * gammainc(k + 1, span) / span**k / weight for k in powers])
    scaled = [node / span for node in nodes]
    averages = []
    for j in powers:
        polynomial = np.ones(1)  # in u / span, lowest power first
        for i in powers:
            if i != j:
                factor = np.array([-scaled[i], 1.0]) / (scaled[j] - scaled[i])
                polynomial = np.convolve(polynomial, factor)
        averages.append(float(polynomial @ moments))
    return tuple(averages)
