"""Stochastic samplers against their papers' chains, the law of Gaussians, and their limit on one Brownian path."""

from __future__ import annotations

import importlib.util
import math
import sys
from itertools import pairwise
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from atlas_solvers_builtin.grids.karras import Karras
from atlas_solvers_builtin.grids.logistic_log_snr import LogisticLogSNR
from atlas_solvers_builtin.processes.edm import EDM
from atlas_solvers_builtin.samplers.ddpm_ancestral import DDPMAncestral
from atlas_solvers_builtin.samplers.dpmpp_2m import DPMpp2M
from atlas_solvers_builtin.samplers.dpmpp_2m_sde import DPMpp2MSDE
from atlas_solvers_builtin.samplers.dpmpp_sde import DPMppSDE
from atlas_solvers_builtin.samplers.edm_stochastic import EDMStochastic
from atlas_solvers_builtin.samplers.euler import Euler
from atlas_solvers_builtin.samplers.euler_ancestral import EulerAncestral
from atlas_solvers_builtin.samplers.heun import Heun
from atlas_solvers_builtin.samplers.sa_solver import SASolver

from atlas_core.engine.noise import CounterNoise
from atlas_core.engine.sampling import drain

_SPEC = importlib.util.spec_from_file_location("reverse_chains", Path(__file__).with_name("reverse_chains.py"))
chains = importlib.util.module_from_spec(_SPEC)
sys.modules["reverse_chains"] = chains
_SPEC.loader.exec_module(chains)

F64 = torch.float64
MEAN, STD = 0.8, 0.5

SAMPLERS = {
    "ddpm-ancestral": DDPMAncestral(),
    "euler-ancestral": EulerAncestral(),
    "euler-ancestral, η = 0.6": EulerAncestral(eta=0.6),
    "dpmpp-sde": DPMppSDE(),
    "dpmpp-sde, r = 0.8": DPMppSDE(r=0.8),
    "dpmpp-2m-sde": DPMpp2MSDE(),
    "dpmpp-2m-sde, heun": DPMpp2MSDE(form="heun", eta=0.7),
    "sa-solver": SASolver(),
    "sa-solver, η = 0.5": SASolver(eta=0.5),
    "edm-stochastic": EDMStochastic(),
}
PAPERS = {
    "ddpm-ancestral": lambda levels: chains.euler_ancestral(levels, MEAN, STD, 1.0),
    "euler-ancestral": lambda levels: chains.euler_ancestral(levels, MEAN, STD, 1.0),
    "euler-ancestral, η = 0.6": lambda levels: chains.euler_ancestral(levels, MEAN, STD, 0.6),
    "dpmpp-sde": lambda levels: chains.dpmpp_sde(levels, MEAN, STD, 0.5),
    "dpmpp-sde, r = 0.8": lambda levels: chains.dpmpp_sde(levels, MEAN, STD, 0.8),
    "dpmpp-2m-sde": lambda levels: chains.dpmpp_2m_sde(levels, MEAN, STD, 1.0, "midpoint"),
    "dpmpp-2m-sde, heun": lambda levels: chains.dpmpp_2m_sde(levels, MEAN, STD, 0.7, "heun"),
    "sa-solver": lambda levels: chains.sa_solver(levels, MEAN, STD, 1.0, 0.35),
    "sa-solver, η = 0.5": lambda levels: chains.sa_solver(levels, MEAN, STD, 0.5, 0.35),
    "edm-stochastic": lambda levels: chains.edm_stochastic(levels, MEAN, STD, 40.0, 0.05, 50.0, 1.003),
}
EVERY = pytest.mark.parametrize("name", SAMPLERS)


def levels_of(steps, first=20.0, last=0.02):
    """`steps` noise levels σ/α and 0, uneven in λ."""
    place = np.linspace(0, 1, steps) ** 1.2
    return [*np.exp(math.log(first) + place * math.log(last / first)), 0.0]


def times_of(process, levels):
    inside = process.time_of_log_snr(-2 * torch.tensor(levels[:-1], dtype=F64).log())
    return torch.cat([inside, torch.zeros(1, dtype=F64)])


class GaussianDenoiser:
    """E[x₀ | x_t] for x₀ ~ N(m, s²); also where α = 0, and for more times than one."""

    def __init__(self, process):
        self.process = process

    def __call__(self, x, t):
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)


class Impulses:
    """A path that in row i moves between two neighbouring times of a clock alone, by the root of their distance.

    What an affine sampler makes of it are the weights of all its noises: its law, without a random number.
    """

    def __init__(self, cuts):
        self.cuts = sorted(cuts)
        self.rows = max(len(self.cuts), 1) + 1

    def brownian(self, purpose, u0, u1, like):
        out = torch.zeros_like(like)
        for row, (a, b) in enumerate(pairwise(self.cuts), start=2):
            if u0 < (a + b) / 2 < u1:
                out[row] = math.sqrt(b - a)
        return out


class Noted:
    """Notes which times of the clock are asked for."""

    def __init__(self):
        self.asked = set()

    def brownian(self, purpose, u0, u1, like):
        self.asked |= {u0, u1}
        return torch.zeros_like(like)


def law(sampler, process, times):
    """Mean and variance of what comes out at α = 1, from the exact marginal at times[0]."""
    denoiser, noted = GaussianDenoiser(process), Noted()
    alpha, sigma = float(process.alpha(times[0])), float(process.sigma(times[0]))
    drain(sampler.steps(denoiser, torch.zeros(1, 1, dtype=F64), times, noise=noted))
    impulses = Impulses(noted.asked)
    x = torch.full((impulses.rows, 1), alpha * MEAN, dtype=F64)
    x[1] += math.hypot(alpha * STD, sigma)
    out = drain(sampler.steps(denoiser, x, times, noise=impulses)).flatten()
    return float(out[0]), float((out[1:] - out[0]).square().sum())


@EVERY
@pytest.mark.parametrize("steps", [1, 2, 3, 12])
def test_mean_and_variance_are_those_of_the_papers_chain(name, steps, process_name, process):
    if name == "edm-stochastic" and process_name != "edm":
        pytest.skip("Heun's steps are those of σ on edm alone")
    levels = levels_of(steps)
    expected = PAPERS[name](levels)
    assert law(SAMPLERS[name], process, times_of(process, levels)) == pytest.approx(expected, rel=1e-10, abs=1e-10)


@EVERY
def test_small_steps_draw_the_gaussian_itself(name, process):
    sampler = attrs.evolve(SAMPLERS[name], s_noise=1.0) if name == "edm-stochastic" else SAMPLERS[name]
    errors = []
    for steps in (50, 200):
        mean, variance = law(sampler, process, times_of(process, levels_of(steps, last=1e-4)))
        assert mean == pytest.approx(MEAN, abs=1e-9)
        errors.append(abs(variance / STD**2 - 1))
    assert errors[1] < 0.35 * errors[0]
    assert errors[1] < (0.07 if "ancestral" in name else 0.01)


@EVERY
def test_the_law_is_that_of_50_000_samples(name):
    process, rows, item = EDM(), 250, 200
    times = times_of(process, levels_of(15))
    expected_mean, expected_variance = law(SAMPLERS[name], process, times)
    noise = CounterNoise.from_seeds(range(rows))
    unit = noise.normal("prior", 0, torch.empty(rows, item, dtype=F64))
    start = process.mix(torch.full_like(unit, MEAN), unit, times[0])
    start = MEAN + (start - MEAN) * math.hypot(STD, 20.0) / 20.0
    x = drain(SAMPLERS[name].steps(GaussianDenoiser(process), start, times, noise=noise))
    n = x.numel()
    assert n >= 50_000
    assert abs(float(x.mean()) - expected_mean) <= 3 * math.sqrt(expected_variance / n)
    assert abs(float(x.var()) - expected_variance) <= 3 * expected_variance * math.sqrt(2 / n)
    # Numbers of one sample, and samples, are independent of each other.
    centred = (x - x.mean()) / x.std()
    assert abs(float((centred[:, 1:] * centred[:, :-1]).mean())) <= 3 / math.sqrt(n)
    assert abs(float((centred[1:] * centred[:-1]).mean())) <= 3 / math.sqrt(n)


@pytest.mark.parametrize(
    ("stochastic", "plain", "exactly"),
    [
        (EulerAncestral(eta=0.0), Euler(), True),
        (DPMpp2MSDE(eta=0.0), DPMpp2M(), False),
        (EDMStochastic(s_churn=0.0), Heun(pairs=False), True),
        (SASolver(eta=0.0, lookahead=0.0, corrector=False), Euler(), False),
        (SASolver(eta=0.0, lookahead=math.inf, corrector=False), DPMpp2M(), False),
        (SASolver(low=30.0, lookahead=math.inf, corrector=False), DPMpp2M(), False),
    ],
    ids=lambda value: repr(value),
)
def test_without_noise_it_is_the_ode_sampler(stochastic, plain, exactly, process, exact_denoiser, mixture):
    denoiser, times = exact_denoiser(process, mixture), times_of(process, levels_of(40))
    noise = CounterNoise.from_seeds(range(8))
    x = process.prior(noise.normal("prior", 0, torch.empty(8, 2, dtype=F64)), float(times[0]))
    expected = drain(plain.steps(denoiser, x, times))
    found = drain(stochastic.steps(denoiser, x, times, noise=noise))
    torch.testing.assert_close(found, expected, rtol=0, atol=0 if exactly else 1e-12)


def test_euler_ancestral_with_all_the_noise_is_ddpm(process, exact_denoiser, mixture):
    denoiser, times = exact_denoiser(process, mixture), LogisticLogSNR().times(process, 10)
    noise = CounterNoise.from_seeds(range(8))
    x = process.prior(noise.normal("prior", 0, torch.empty(8, 2, dtype=F64)))
    ends = [drain(sampler.steps(denoiser, x, times, noise=noise)) for sampler in (EulerAncestral(), DDPMAncestral())]
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12)


# ---- one path, finer and finer ---------------------------------------------------------------------------------------

STEPS = [20, 40, 80, 160]
AT_FULL_NOISE = ["ddpm-ancestral", "euler-ancestral", "dpmpp-sde", "dpmpp-2m-sde", "sa-solver"]


@pytest.fixture(scope="module")
def finer(mixture, exact_denoiser):
    """steps -> where 64 samples come to at σ/α = 0.05 from σ/α = 20, always on the same paths."""
    means = torch.tensor([[-0.6, 0.2], [0.5, 0.4], [0.1, -0.6]], dtype=F64)  # modes overlap: none is fallen out of
    mild = attrs.evolve(mixture, means=means, stds=torch.tensor([0.4, 0.5, 0.3], dtype=F64))
    noise = CounterNoise.from_seeds(range(64))
    start = 20 * noise.normal("start", 0, torch.empty(64, 2, dtype=F64))

    def run(name, steps):
        levels = torch.exp(torch.linspace(math.log(20), math.log(0.05), steps + 1, dtype=F64))
        times = EDM().time_of_log_snr(-2 * levels.log())
        return drain(SAMPLERS[name].steps(exact_denoiser(EDM(), mild), start, times, noise=noise))

    return run


@pytest.fixture(scope="module")
def limit(finer):
    return finer("sa-solver", 1280)


def order(errors):
    return -np.polyfit(np.log(STEPS), np.log(errors), 1)[0]


def rms(x):
    return float(x.square().mean().sqrt())


@pytest.mark.parametrize("name", AT_FULL_NOISE)
def test_at_full_noise_all_converge_to_one_sample_with_strong_order_one(name, finer, limit):
    # The noise is additive: first-order steps are of strong order 1, and none of more without a second integral of the
    # path (Kloeden & Platen 1992, §10.3).
    errors = [rms(finer(name, steps) - limit) for steps in STEPS]
    assert order(errors) == pytest.approx(1.0, abs=0.2), f"errors {errors}"
    assert errors[-1] < (0.05 if "ancestral" in name else 0.01)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in AT_FULL_NOISE])
def test_at_other_noise_each_converges_to_a_sample_with_strong_order_one(name, finer):
    ends = [finer(name, steps) for steps in [*STEPS, 2 * STEPS[-1]]]
    errors = [rms(after - before) for before, after in pairwise(ends)]
    assert order(errors) == pytest.approx(1.0, abs=0.3), f"differences {errors}"


# ---- the safeguard ---------------------------------------------------------------------------------------------------


def energy(a, b):
    """Energy distance of two sets, unbiased."""
    n, m = len(a), len(b)
    within = torch.pdist(a).sum() / (n * (n - 1) / 2) + torch.pdist(b).sum() / (m * (m - 1) / 2)
    return float(2 * torch.cdist(a, b).mean() - within)


@pytest.mark.parametrize("grid", [Karras(), LogisticLogSNR()], ids=["karras", "logistic"])
@pytest.mark.parametrize("steps", [3, 4, 5, 6, 8, 10, 14, 20, 50])
def test_sa_solver_is_at_no_number_of_steps_worse_than_a_first_order_one(grid, steps, exact_denoiser, mixture):
    process, rows = EDM(), 1500
    rng = np.random.default_rng(steps)
    start, exact = mixture.sample(rows, rng), mixture.sample(rows, rng)
    noise = CounterNoise.from_seeds(range(rows))
    x = start + 80 * noise.normal("prior", 0, start)
    distance = {
        type(sampler).__name__: energy(
            drain(sampler.steps(exact_denoiser(process, mixture), x, grid.times(process, steps), noise=noise)), exact
        )
        for sampler in (SASolver(), EulerAncestral())
    }
    assert distance["SASolver"] <= distance["EulerAncestral"] + 2e-3  # what 1,500 samples cannot tell from 0


# ---- mistakes --------------------------------------------------------------------------------------------------------


@EVERY
def test_it_asks_for_noise(name, exact_denoiser, mixture):
    with pytest.raises(ValueError, match=rf"{name.partition(',')[0]} draws noise"):
        next(
            SAMPLERS[name].steps(exact_denoiser(EDM(), mixture), torch.zeros(1, 2, dtype=F64), Karras().times(EDM(), 3))
        )


@pytest.mark.parametrize(
    "make",
    [
        lambda: EulerAncestral(eta=1.1),
        lambda: EulerAncestral(eta=-0.1),
        lambda: SASolver(eta=math.inf),
        lambda: SASolver(low=1.0, high=0.5),
        lambda: SASolver(lookahead=-1.0),
        lambda: DPMpp2MSDE(form="euler"),
        lambda: DPMppSDE(r=0.0),
        lambda: EDMStochastic(s_churn=-1.0),
        lambda: EDMStochastic(s_tmin=2.0, s_tmax=1.0),
    ],
)
def test_what_cannot_be_meant_is_refused(make):
    with pytest.raises(ValueError, match=r"eta|high|lookahead|form|'r'|s_churn|s_tmax"):
        make()
