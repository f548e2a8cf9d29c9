"""Single-step samplers against their papers' rules as k-diffusion writes them, and against Euler at equal calls."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from atlas_solvers_builtin.grids.karras import Karras
from atlas_solvers_builtin.grids.logistic_log_snr import LogisticLogSNR
from atlas_solvers_builtin.processes.edm import EDM
from atlas_solvers_builtin.samplers.dpm_2 import DPM2
from atlas_solvers_builtin.samplers.dpmpp_2s import DPMpp2S
from atlas_solvers_builtin.samplers.euler import Euler
from atlas_solvers_builtin.samplers.heun import Heun
from atlas_solvers_builtin.samplers.multistep import Multistep

from atlas_core.engine.sampling import drain

F64 = torch.float64
ANY = 1.0
EACH = pytest.mark.parametrize("sampler", [DPM2, DPMpp2S, Heun])


def start(process, rows=32):
    unit = torch.from_numpy(np.random.default_rng(5).standard_normal((rows, 2)))
    return process.prior(unit, process.t_max)


def time_of(sigma):
    return torch.tensor((sigma / 80) ** (1 / 7), dtype=F64)


def dpm_2(denoiser, x, sigma, after):
    """One step of k-diffusion's sample_dpm_2 without noise."""
    middle = math.exp((math.log(sigma) + math.log(after)) / 2)
    x_2 = x + (x - denoiser(x, time_of(sigma))) / sigma * (middle - sigma)
    return x + (x_2 - denoiser(x_2, time_of(middle))) / middle * (after - sigma)


def dpmpp_2s(denoiser, x, sigma, after):
    """One step of k-diffusion's sample_dpmpp_2s_ancestral at η = 0."""
    h = math.log(sigma / after)
    x_2 = math.exp(-h / 2) * x - math.expm1(-h / 2) * denoiser(x, time_of(sigma))
    return math.exp(-h) * x - math.expm1(-h) * denoiser(x_2, time_of(sigma * math.exp(-h / 2)))


def test_heun_averages_the_data_predicted_at_both_ends_of_a_pair(exact_denoiser, mixture):
    # The trapezoidal rule in x/σ as a function of 1/σ, in which the ODE is d(x/σ) = x̂₀ d(1/σ): independent of λ.
    process = EDM()
    denoiser, x = exact_denoiser(process, mixture), start(process)
    levels = torch.logspace(math.log10(80), -2, 9, dtype=F64).tolist()
    expected = x
    for sigma, after in pairwise(levels[::2]):
        first = denoiser(expected, time_of(sigma))
        ahead = after * (expected / sigma + first * (1 / after - 1 / sigma))
        mean = (first + denoiser(ahead, time_of(after))) / 2
        expected = after * (expected / sigma + mean * (1 / after - 1 / sigma))
    times = torch.cat([torch.stack([time_of(level) for level in levels]), torch.zeros(1, dtype=F64)])
    times[0] = 1.0
    walked = list(Heun(reach=ANY).steps(denoiser, x, times))
    torch.testing.assert_close(walked[-2].x, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("steps", [3, 6])
def test_heun_over_long_pairs_is_euler(steps, exact_denoiser, mixture):
    process = EDM()
    denoiser, x, times = exact_denoiser(process, mixture), start(process), LogisticLogSNR().times(process, steps)
    ends = [drain(sampler.steps(denoiser, x, times)) for sampler in (Heun(), Euler())]
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("sampler", "rule"), [(DPM2, dpm_2), (DPMpp2S, dpmpp_2s)])
@pytest.mark.parametrize("pairs", [True, False])
def test_the_rule_is_the_published_one(sampler, rule, pairs, exact_denoiser, mixture):
    process = EDM()
    denoiser, x = exact_denoiser(process, mixture), start(process)
    ends = torch.logspace(math.log10(80), -2, 9, dtype=F64).tolist()
    expected, states = x, []
    for sigma, after in pairwise(ends):
        expected = rule(denoiser, expected, sigma, after)
        states.append(expected)
    # Pairs meet the middle of each of those steps in the grid itself.
    levels = [math.sqrt(a * b) for a, b in pairwise(sorted([*ends, *ends], reverse=True))] if pairs else ends
    times = torch.cat([torch.stack([time_of(level) for level in levels]), torch.zeros(1, dtype=F64)])
    times[0] = 1.0
    steps = list(sampler(reach=ANY, pairs=pairs).steps(denoiser, x, times))
    got = [step.x for step in (steps[1:-1:2] if pairs else steps[:-1])]
    for ours, theirs in zip(got, states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    torch.testing.assert_close(steps[-1].x, denoiser(expected, time_of(ends[-1])), rtol=0, atol=1e-10)
    assert len(steps) == len(times) - 1


@EACH
@pytest.mark.parametrize("pairs", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 3, 8])
def test_calls_are_those_promised_and_steps_those_of_the_grid(sampler, pairs, steps, process, exact_denoiser, mixture):
    inner, seen = exact_denoiser(process, mixture), []

    class Counting:
        def __init__(self):
            self.process = process

        def __call__(self, x, t):
            seen.append(float(t))
            return inner(x, t)

    times, chosen = Karras().times(process, steps), sampler(pairs=pairs)
    walked = list(chosen.steps(Counting(), start(process), times))
    assert len(seen) == chosen.nfe(steps) == (steps if pairs else 2 * steps - 1)
    assert sorted(seen, reverse=True) == seen
    assert [step.index for step in walked] == list(range(steps))
    assert [step.t for step in walked] == times[1:].tolist()
    assert all(bool(step.x.isfinite().all()) for step in walked)


@EACH
@pytest.mark.parametrize("pairs", [True, False])
def test_error_falls_with_order_two_on_a_mixture(sampler, pairs, process, exact_denoiser, mixture, flow):
    at_start, exact = flow
    steps, errors = [40, 80, 160, 320], []
    for n in steps:
        levels = torch.exp(torch.linspace(math.log(20), math.log(0.05), n + 1 + pairs, dtype=F64))
        times = process.time_of_log_snr(-2 * levels.log())
        first, last = process.alpha(times[0]), process.alpha(times[-1])
        if not pairs:  # its last step stands alone: walk on by one, and look before it
            times = torch.cat([times, (times[-1] / 2)[None]])
        walked = list(sampler(pairs=pairs).steps(exact_denoiser(process, mixture), first * at_start, times))
        end = walked[-2].x if not pairs else walked[-1].x
        errors.append(float((end / last - exact).square().mean().sqrt()))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(2, abs=0.3), f"errors {errors}"


@EACH
def test_at_no_number_of_calls_is_it_worse_than_euler(sampler, exact_denoiser, mixture):
    process, grid = EDM(), LogisticLogSNR()
    denoiser, x = exact_denoiser(process, mixture), start(process, 256)
    fine = torch.cat([torch.linspace(1, 0.1, 400, dtype=F64), torch.zeros(1, dtype=F64)])
    end = drain(Multistep(order=4, variable="log-snr", reach=ANY).steps(denoiser, x, fine))

    def error(chosen, steps):
        return float((drain(chosen.steps(denoiser, x, grid.times(process, steps))) - end).square().mean().sqrt())

    ratios = {n: error(sampler(), n) / error(Euler(), n) for n in (*range(3, 13), 15, 20, 30, 50)}
    assert max(ratios.values()) <= 1 + 1e-9, ratios
    assert ratios[20] < 0.8


@pytest.mark.parametrize("setting", ["reach", "pairs"])
@EACH
def test_every_setting_changes_the_samples(sampler, setting, exact_denoiser, mixture):
    process = EDM()
    times = LogisticLogSNR().times(process, 9)
    walk = [
        drain(chosen.steps(exact_denoiser(process, mixture), start(process), times))
        for chosen in (sampler(), sampler(**{setting: {"reach": 0.3, "pairs": False}[setting]}))
    ]
    assert not torch.equal(*walk)
    with pytest.raises(ValueError, match="reach"):
        sampler(reach=0.0)
