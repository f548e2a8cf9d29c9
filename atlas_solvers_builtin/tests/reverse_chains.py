"""Stochastic samplers as their papers write them, for Gaussian data: mean and covariance, moment by moment.

All in the frame of EDM, y = x/α with noise ς = σ/α and λ = −ln ς, where the denoiser of N(m, s²) is m + g(y − m),
g = s²/(s² + ς²). A chain carries the second moments of (y, whatever it remembers, 1), in float64.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np


def denoiser_row(size, level, mean, std, at=0):
    """The row that makes D of entry `at` of a state of `size` whose last entry is 1."""
    gain = std**2 / (std**2 + level**2)
    row = np.zeros(size)
    row[at], row[-1] = gain, mean * (1 - gain)
    return row


def unit(size, at):
    row = np.zeros(size)
    row[at] = 1.0
    return row


class Chain:
    """E[v vᵀ] of a state v = (y, …, 1)."""

    def __init__(self, size, mean, variance):
        start = unit(size, size - 1)
        start[0] = mean
        self.size, self.moments = size, np.outer(start, start)
        self.moments[0, 0] += variance

    def step(self, rows, noise=()):
        """v ← A v + Σ b ξ with the rows of A, the last of them being that of the 1, and columns b."""
        matrix = np.vstack([*rows, unit(self.size, self.size - 1)])
        self.moments = matrix @ self.moments @ matrix.T
        for column in noise:
            self.moments += np.outer(column, column)

    def law(self):
        mean = self.moments[0, -1]
        return mean, self.moments[0, 0] - mean**2


def start_of(size, levels, mean, std):
    return Chain(size, mean, std**2 + levels[0] ** 2)


def euler_ancestral(levels, mean, std, eta):
    """k-diffusion's form: σ_up = η √(σ_t² (σ_s² − σ_t²)/σ_s²), Euler in σ to σ_down, then noise of σ_up."""
    chain = start_of(2, levels, mean, std)
    for a, b in pairwise(levels):
        up = eta * math.sqrt(b**2 * (a**2 - b**2) / a**2)
        down = math.sqrt(b**2 - up**2)
        d = denoiser_row(2, a, mean, std)
        y = unit(2, 0)
        chain.step([y + (y - d) / a * (down - a)], [np.array([up, 0.0])])
    return chain.law()


def dpmpp_2m_sde(levels, mean, std, eta, form):
    """Lu et al. 2022, SDE-DPM-Solver++(2M), as k-diffusion writes it; its eta is our η²."""
    chain, before = start_of(3, levels, mean, std), None
    for a, b in pairwise(levels):
        d, old = denoiser_row(3, a, mean, std), unit(3, 1)
        h = math.log(a / b) if b else math.inf
        both = h + eta**2 * h
        y = b / a * math.exp(-(eta**2) * h) * unit(3, 0) - math.expm1(-both) * d if b else d
        if before is not None and b:
            r = before / h
            if form == "midpoint":
                y = y - 0.5 * math.expm1(-both) * (1 / r) * (d - old)
            else:
                y = y + (-math.expm1(-both) / -both + 1) * (1 / r) * (d - old)
        up = b * math.sqrt(-math.expm1(-2 * eta**2 * h)) if b else 0.0
        chain.step([y, d], [np.array([up, 0.0, 0.0])])
        before = h
    return chain.law()


def dpmpp_sde(levels, mean, std, r):
    """Lu et al. 2022, SDE-DPM-Solver++(2S), as k-diffusion writes it, at η = 1 with both noises from one path.

    W(s → m) and W(s → t) share the path: z = ρ z_m + √(1 − ρ²) z', ρ² = (1/m² − 1/s²)/(1/t² − 1/s²) in σ.
    """
    chain = start_of(3, levels, mean, std)
    for a, b in pairwise(levels):
        d = denoiser_row(3, a, mean, std)
        if not b:
            chain.step([d, unit(3, 1)])
            continue
        m = math.exp((1 - r) * math.log(a) + r * math.log(b))
        up_m, up = (c * math.sqrt(1 - (c / a) ** 2) for c in (m, b))
        rho = math.sqrt((m**-2 - a**-2) / (b**-2 - a**-2))
        y = unit(3, 0)
        u = (m / a) ** 2 * y + (1 - (m / a) ** 2) * d
        gain = std**2 / (std**2 + m**2)
        d2 = gain * u + mean * (1 - gain) * unit(3, 2)
        mixed = (1 - 1 / (2 * r)) * d + 1 / (2 * r) * d2
        pull = 1 - (b / a) ** 2
        new = (b / a) ** 2 * y + pull * mixed
        by_m = pull / (2 * r) * gain * up_m + up * rho
        rest = up * math.sqrt(1 - rho**2)
        chain.step([new, unit(3, 1)], [np.array([by_m, 0.0, 0.0]), np.array([rest, 0.0, 0.0])])
    return chain.law()


def sa_solver(levels, mean, std, eta, reach):
    """Xue et al. 2023, alg. 1: predict, evaluate, correct; the state is (y_p, first-order y, x̂₀ before, 1)."""
    chain, before, mend = start_of(4, levels, mean, std), None, 0.0
    for a, b in pairwise(levels):
        d, old = denoiser_row(4, a, mean, std), unit(4, 2)
        y = unit(4, 1) + mend * (d - old) if mend else unit(4, 0)
        if not b:
            chain.step([d, unit(4, 1), d])
            continue
        h, rate = math.log(a / b), 1 + eta**2
        pull = -math.expm1(-rate * h)
        first = b / a * math.exp(-(eta**2) * h) * y + pull * d
        ahead = min(h / 2, reach) / before if before is not None else 0.0
        up = b * math.sqrt(-math.expm1(-2 * eta**2 * h))
        chain.step([first + pull * ahead * (d - old), first, d], [np.array([up, up, 0.0, 0.0])])
        # ∫₀ʰ rate e^(−rate (h − v)) v/h dv, the weight of the line's far end
        mend = 1 - pull / (rate * h)
        before = h
    return chain.law()


def edm_stochastic(levels, mean, std, churn, low, high, s_noise):
    """Karras et al. 2022, alg. 2."""
    chain, count = start_of(2, levels, mean, std), len(levels) - 1
    for a, b in pairwise(levels):
        gamma = min(churn / count, math.sqrt(2) - 1) if low <= a <= high else 0.0
        raised = a * (1 + gamma)
        chain.step([unit(2, 0)], [np.array([s_noise * math.sqrt(raised**2 - a**2), 0.0])])
        y = unit(2, 0)
        slope = (y - denoiser_row(2, raised, mean, std)) / raised
        new = y + (b - raised) * slope
        if b:
            gain = std**2 / (std**2 + b**2)
            slope_b = (new - gain * new - mean * (1 - gain) * unit(2, 1)) / b
            new = y + (b - raised) * (slope + slope_b) / 2
        chain.step([new])
    return chain.law()
