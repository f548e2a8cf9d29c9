"""Samplers against the exact flow of Gaussians and mixtures, in float64, on every legal process and parametrization."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from atlas_solvers_builtin.samplers.ddpm_ancestral import DDPMAncestral
from atlas_solvers_builtin.samplers.deis import DEIS
from atlas_solvers_builtin.samplers.dpmpp_2m import DPMpp2M
from atlas_solvers_builtin.samplers.dpmpp_3m import DPMpp3M
from atlas_solvers_builtin.samplers.euler import Euler
from atlas_solvers_builtin.samplers.heun import Heun
from atlas_solvers_builtin.samplers.multistep import Multistep
from atlas_solvers_builtin.samplers.unipc import UniPC

from atlas_core.engine.denoiser import NetworkDenoiser
from atlas_core.engine.network import Network
from atlas_core.engine.noise import CounterNoise
from atlas_core.engine.sampling import drain

F64 = torch.float64
ORDER = {"euler": (Euler(), 1), "heun": (Heun(pairs=False), 2), "dpmpp-2m": (DPMpp2M(), 2)}


def number(value):
    return torch.tensor(value, dtype=F64)


class GaussianDenoiser:
    """E[x₀ | x_t] for x₀ ~ N(m, s²)."""

    def __init__(self, process, mean, std):
        self.process, self.mean, self.std = process, mean, std

    def __call__(self, x, t):
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return self.mean + gain * (x - alpha * self.mean)


def std_error(sampler, process, times, mean, std):
    """Relative error of the standard deviation of what comes out, from the exact marginal at times[0].

    The exact denoiser is affine, so two points carry the whole law.
    """
    alpha, sigma = float(process.alpha(times[0])), float(process.sigma(times[0]))
    x = alpha * mean + torch.tensor([0.0, math.hypot(alpha * std, sigma)], dtype=F64)
    low, high = drain(sampler.steps(GaussianDenoiser(process, mean, std), x, times))
    assert float(low) == pytest.approx(mean, abs=1e-10)
    return float(high - low) / std - 1


def arctan_grid(process, std, steps):
    """Even steps in φ = arctan(σ/(αs)), from σ/α = 80, or from pure noise if the process has it."""
    end = process.t_max if float(process.alpha(number(process.t_max))) == 0 else None
    phi = torch.linspace(math.pi / 2 if end else math.atan(80 / std), 0, steps + 1, dtype=F64)
    times = process.time_of_log_snr(-2 * (std * torch.tan(phi)).log())
    times[0], times[-1] = end or times[0], 0.0
    return times


@pytest.mark.parametrize("std", [0.25, 1.0])
def test_euler_reaches_its_best_possible_error_on_a_gaussian(process, std):
    # A step of Δ in φ multiplies the deviation by cos Δ: the best is even steps, cos(φ/n)^n ≈ 1 − (π/2)²/(2n).
    steps = 50
    best = (math.pi / 2) ** 2 / (2 * steps)
    error = std_error(Euler(), process, arctan_grid(process, std, steps), 2.0, std)
    assert error == pytest.approx(-best, rel=0.1)


@pytest.mark.parametrize("std", [0.25, 1.0])
def test_dpmpp_2m_is_within_a_thousandth_on_a_gaussian(process, std):
    assert abs(std_error(DPMpp2M(), process, arctan_grid(process, std, 50), 2.0, std)) <= 1e-3


@pytest.mark.parametrize("sampler_name", list(ORDER))
def test_error_falls_with_the_claimed_order_on_a_mixture(
    sampler_name, process_name, parametrization_name, process, parametrization, exact_model, flow
):
    sampler, order = ORDER[sampler_name]
    start, exact = flow
    network = Network(process, parametrization, exact_model(process_name, parametrization_name))
    steps, errors = [40, 80, 160, 320], []
    for n in steps:
        levels = torch.exp(torch.linspace(math.log(20), math.log(0.05), n + 1, dtype=F64))
        times = process.time_of_log_snr(-2 * levels.log())
        first, last = process.alpha(times[0]), process.alpha(times[-1])
        denoiser = NetworkDenoiser(network)
        denoiser.prepare(times)
        end = drain(sampler.steps(denoiser, first * start, times))
        errors.append(float((end / last - exact).square().mean().sqrt()))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.25), f"errors {errors}"
    assert errors[-1] < {1: 5e-3, 2: 1e-4}[order]


HIGHER = {
    "multistep, order 1": (Multistep(order=1), 2),
    "multistep, order 2": (Multistep(order=2), 3),
    "multistep": (Multistep(), 4),
    "multistep, no corrector": (Multistep(corrector=False), 3),
    "multistep, log-snr": (Multistep(variable="log-snr"), 4),
    "dpmpp-3m": (DPMpp3M(), 3),
    "deis, order 2": (DEIS(order=2), 2),
    "deis": (DEIS(), 3),
    "unipc, order 2": (UniPC(order=2), 3),
    "unipc": (UniPC(), 4),
}
"""A corrector adds one to the order."""


@pytest.mark.parametrize("name", list(HIGHER))
def test_error_falls_with_the_order_of_the_family_on_a_mixture(name, process, exact_denoiser, mixture, flow):
    sampler, order = HIGHER[name]
    start, exact = flow
    steps, errors = [40, 80, 160, 320], []
    for n in steps:
        levels = torch.exp(torch.linspace(math.log(20), math.log(0.05), n + 1, dtype=F64))
        times = process.time_of_log_snr(-2 * levels.log())
        first, last = process.alpha(times[0]), process.alpha(times[-1])
        end = drain(sampler.steps(exact_denoiser(process, mixture), first * start, times))
        errors.append(float((end / last - exact).square().mean().sqrt()))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.3), f"errors {errors}"


def discrete_law(process, times, mean, std):
    """Mean and variance after the chain of Ho et al. eq. 6–7, moment by moment, for the exact denoiser of N(m, s²)."""
    alphas, sigmas = process.alpha(times).tolist(), process.sigma(times).tolist()
    centre, variance = alphas[0] * mean, (alphas[0] * std) ** 2 + sigmas[0] ** 2
    for i in range(len(times) - 1):
        a_s, s_s, a_t, s_t = alphas[i], sigmas[i], alphas[i + 1], sigmas[i + 1]
        beta = s_s**2 - (a_s / a_t) ** 2 * s_t**2
        keep, pull, added = a_s / a_t * s_t**2 / s_s**2, a_t * beta / s_s**2, beta * s_t**2 / s_s**2
        gain = a_s * std**2 / (a_s**2 * std**2 + s_s**2)
        centre = keep * centre + pull * (mean + gain * (centre - a_s * mean))
        variance = (keep + pull * gain) ** 2 * variance + added
    return centre, variance


def test_ddpm_ancestral_follows_the_law_of_its_chain_on_a_gaussian(process):
    mean, std, rows = 2.0, 0.5, 50_000
    times = arctan_grid(process, std, 30)
    expected_mean, expected_variance = discrete_law(process, times, mean, std)
    noise = CounterNoise.from_seeds(range(rows))
    unit = noise.normal("prior", 0, torch.empty(rows, 4, dtype=F64))
    alpha, sigma = process.alpha(times[0]), process.sigma(times[0])
    x = alpha * mean + (alpha**2 * std**2 + sigma**2).sqrt() * unit
    x = drain(DDPMAncestral().steps(GaussianDenoiser(process, mean, std), x, times, noise=noise))
    n = x.numel()
    assert abs(float(x.mean()) - expected_mean) <= 3 * math.sqrt(expected_variance / n)
    assert abs(float(x.var()) - expected_variance) <= 3 * expected_variance * math.sqrt(2 / n)


class PairDenoiser:
    """E[x₀ | x_t], entry by entry, for entries drawn from w N(a, s²) + (1 − w) N(b, s²)."""

    weight, low, high, std = 0.35, -1.0, 0.7, 0.3

    def __init__(self, process):
        self.process = process

    def __call__(self, x, t):
        alpha, sigma = float(self.process.alpha(t)), float(self.process.sigma(t))
        y, level = x / alpha, sigma / alpha
        variance = self.std**2 + level**2
        tilt = (y - (self.low + self.high) / 2) * ((self.low - self.high) / variance)
        share = torch.sigmoid(tilt + math.log(self.weight / (1 - self.weight)))
        centre = share * self.low + (1 - share) * self.high
        return centre + self.std**2 / variance * (y - centre)


def test_ddpm_ancestral_draws_a_mixture(process):
    # To σ/α = 0.2, whose marginal is the mixture with that noise added; 200 steps leave a bias below the noise of 50k.
    pair, rows, items = PairDenoiser(process), 12_500, 4
    levels = torch.exp(torch.linspace(math.log(5), math.log(0.2), 201, dtype=F64))
    times = process.time_of_log_snr(-2 * levels.log())
    noise = CounterNoise.from_seeds(range(rows))
    low = noise.uniform("which", 0, (items,)) < pair.weight
    data = torch.where(low, pair.low, pair.high) + pair.std * noise.normal(
        "data", 0, torch.empty(rows, items, dtype=F64)
    )
    x = process.mix(data, noise.normal("start", 0, data), times[0])
    x = drain(DDPMAncestral().steps(pair, x, times, noise=noise))
    y = (x / process.alpha(times[-1])).flatten()
    w, n = pair.weight, len(y)
    assert n >= 50_000
    mean, spread = w * pair.low + (1 - w) * pair.high, pair.std**2 + 0.2**2
    variance = w * (1 - w) * (pair.high - pair.low) ** 2 + spread
    fourth = float(((y - mean) ** 4).mean())
    assert abs(float(y.mean()) - mean) <= 3 * math.sqrt(variance / n)
    assert abs(float(y.var()) - variance) <= 3 * math.sqrt((fourth - variance**2) / n)
    for threshold in (-1.0, -0.5, 0.0, 0.5, 1.0):
        below = [math.erfc((centre - threshold) / math.sqrt(2 * spread)) / 2 for centre in (pair.low, pair.high)]
        share = w * below[0] + (1 - w) * below[1]
        assert abs(float((y < threshold).double().mean()) - share) <= 3 * math.sqrt(share * (1 - share) / n)
