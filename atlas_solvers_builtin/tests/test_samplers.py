"""Samplers against the published update rules, written again here, and the rules that all samplers keep."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from atlas_solvers_builtin.grids.karras import Karras
from atlas_solvers_builtin.processes.edm import EDM
from atlas_solvers_builtin.processes.rectified_flow import RectifiedFlow
from atlas_solvers_builtin.processes.vp_linear import VPLinear
from atlas_solvers_builtin.samplers.ddpm_ancestral import DDPMAncestral
from atlas_solvers_builtin.samplers.deis import DEIS
from atlas_solvers_builtin.samplers.dpm_2 import DPM2
from atlas_solvers_builtin.samplers.dpmpp_2m import DPMpp2M
from atlas_solvers_builtin.samplers.dpmpp_2m_sde import DPMpp2MSDE
from atlas_solvers_builtin.samplers.dpmpp_2s import DPMpp2S
from atlas_solvers_builtin.samplers.dpmpp_3m import DPMpp3M
from atlas_solvers_builtin.samplers.dpmpp_sde import DPMppSDE
from atlas_solvers_builtin.samplers.edm_stochastic import EDMStochastic
from atlas_solvers_builtin.samplers.euler import Euler
from atlas_solvers_builtin.samplers.euler_ancestral import EulerAncestral
from atlas_solvers_builtin.samplers.heun import Heun
from atlas_solvers_builtin.samplers.multistep import Multistep
from atlas_solvers_builtin.samplers.sa_solver import SASolver
from atlas_solvers_builtin.samplers.unipc import UniPC

from atlas_core.engine.noise import CounterNoise
from atlas_core.engine.sampling import drain

F64 = torch.float64
STOCHASTIC = {
    "ddpm-ancestral": DDPMAncestral(),
    "euler-ancestral": EulerAncestral(),
    "dpmpp-sde": DPMppSDE(),
    "dpmpp-2m-sde": DPMpp2MSDE(),
    "sa-solver": SASolver(),
    "edm-stochastic": EDMStochastic(),
}
SAMPLERS = {
    "euler": Euler(),
    "heun": Heun(),
    "dpm-2": DPM2(),
    "dpmpp-2s": DPMpp2S(),
    "multistep": Multistep(),
    "dpmpp-2m": DPMpp2M(),
    "dpmpp-3m": DPMpp3M(),
    "deis": DEIS(),
    "unipc": UniPC(),
    **STOCHASTIC,
}
ALL = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)


class Counting:
    def __init__(self, denoiser):
        self.denoiser, self.process, self.times = denoiser, denoiser.process, []

    def __call__(self, x, t):
        self.times.append(float(t))
        return self.denoiser(x, t)


def start(process, rows=8):
    noise = CounterNoise.from_seeds(range(rows))
    return process.prior(noise.normal("prior", 0, torch.empty(rows, 2, dtype=F64)), 1.0), noise


def test_euler_is_ddim(exact_denoiser, mixture):
    process = VPLinear()
    denoiser, times = exact_denoiser(process, mixture), torch.linspace(1, 0, 11, dtype=F64)
    x, _ = start(process)
    expected = x
    for s, t in pairwise(times):
        bar_s, bar_t = process.alpha(s) ** 2, process.alpha(t) ** 2  # their α is our α²
        eps = (expected - bar_s.sqrt() * denoiser(expected, s)) / (1 - bar_s).sqrt()
        expected = bar_t.sqrt() * (expected - (1 - bar_s).sqrt() * eps) / bar_s.sqrt() + (1 - bar_t).sqrt() * eps
    torch.testing.assert_close(drain(Euler().steps(denoiser, x, times)), expected, rtol=1e-9, atol=1e-9)


def test_euler_on_edm_is_euler_in_sigma(exact_denoiser, mixture):
    process = EDM()
    denoiser, times = exact_denoiser(process, mixture), Karras().times(process, 12)
    x, _ = start(process)
    expected, sigmas = x, (80 * times**7).tolist()
    for i, s in enumerate(times[:-1]):
        expected = expected + (expected - denoiser(expected, s)) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
    torch.testing.assert_close(drain(Euler().steps(denoiser, x, times)), expected, rtol=1e-9, atol=1e-9)


def test_euler_on_rectified_flow_follows_the_velocity(exact_denoiser, mixture):
    process = RectifiedFlow()
    denoiser, times = exact_denoiser(process, mixture), torch.linspace(1, 0, 11, dtype=F64)
    x, _ = start(process)
    expected = x
    for s, t in pairwise(times):
        expected = expected + (t - s) * (expected - denoiser(expected, s)) / s
    torch.testing.assert_close(drain(Euler().steps(denoiser, x, times)), expected, rtol=1e-9, atol=1e-9)


def test_heun_is_algorithm_1_of_karras_et_al(exact_denoiser, mixture):
    process = EDM()
    denoiser, times = exact_denoiser(process, mixture), Karras().times(process, 12)
    x, _ = start(process)
    expected, sigmas = x, (80 * times**7).tolist()
    for i, (s, t) in enumerate(pairwise(times)):
        d = (expected - denoiser(expected, s)) / sigmas[i]
        nxt = expected + (sigmas[i + 1] - sigmas[i]) * d
        if sigmas[i + 1] > 0:
            d_next = (nxt - denoiser(nxt, t)) / sigmas[i + 1]
            nxt = expected + (sigmas[i + 1] - sigmas[i]) * (d + d_next) / 2
        expected = nxt
    torch.testing.assert_close(drain(Heun(pairs=False).steps(denoiser, x, times)), expected, rtol=1e-9, atol=1e-9)


def test_heun_on_rectified_flow_averages_velocities(exact_denoiser, mixture):
    process = RectifiedFlow()
    denoiser, times = exact_denoiser(process, mixture), torch.linspace(1, 0.1, 10, dtype=F64)
    x, _ = start(process)
    expected = x
    for s, t in pairwise(times):
        v = (expected - denoiser(expected, s)) / s
        ahead = expected + (t - s) * v
        expected = expected + (t - s) * (v + (ahead - denoiser(ahead, t)) / t) / 2
    torch.testing.assert_close(drain(Heun(pairs=False).steps(denoiser, x, times)), expected, rtol=1e-9, atol=1e-9)


def test_dpmpp_2m_is_the_rule_of_lu_et_al(exact_denoiser, mixture):
    # Algorithm 2, as k-diffusion writes it for EDM, where λ = −ln σ; the last step to σ = 0 is the prediction itself.
    process = EDM()
    denoiser, times = exact_denoiser(process, mixture), Karras().times(process, 12)
    x, _ = start(process)
    expected, sigmas, old = x, (80 * times**7).tolist(), None
    for i, s in enumerate(times[:-1]):
        data = denoiser(expected, s)
        if sigmas[i + 1] == 0:
            expected = data
            break
        h = math.log(sigmas[i] / sigmas[i + 1])
        ahead = data
        if old is not None:
            r = math.log(sigmas[i - 1] / sigmas[i]) / h
            ahead = (1 + 1 / (2 * r)) * data - 1 / (2 * r) * old
        expected = sigmas[i + 1] / sigmas[i] * expected - math.expm1(-h) * ahead
        old = data
    torch.testing.assert_close(drain(DPMpp2M(reach=math.inf).steps(denoiser, x, times)), expected, rtol=1e-9, atol=1e-9)


@ALL
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_n_steps_are_yielded_at_the_promised_price(sampler, steps, process, exact_denoiser, mixture):
    denoiser = Counting(exact_denoiser(process, mixture))
    times = Karras().times(process, steps)
    x, noise = start(process)
    seen = list(sampler.steps(denoiser, x, times, noise=noise))
    assert [step.index for step in seen] == list(range(steps))
    assert [step.t for step in seen] == times[1:].tolist()
    assert len(denoiser.times) == sampler.nfe(steps)
    assert 0 not in denoiser.times  # nothing is left to predict there
    assert all(bool(step.x.isfinite().all()) for step in seen)
    torch.testing.assert_close(seen[-1].x, seen[-1].x0)  # σ = 0: the state is the prediction


@ALL
def test_a_sample_does_not_depend_on_its_batch(sampler, process, exact_denoiser, mixture):
    denoiser, times = exact_denoiser(process, mixture), Karras().times(process, 9)
    x, noise = start(process)
    together = drain(sampler.steps(denoiser, x, times, noise=noise))
    rows = torch.tensor([5, 2])
    alone = drain(sampler.steps(denoiser, x[rows], times, noise=noise.select(rows)))
    torch.testing.assert_close(alone, together[rows], rtol=0, atol=1e-12)


@ALL
def test_the_dtype_of_the_start_is_kept(sampler, exact_denoiser, mixture):
    process = EDM()
    x, noise = start(process)
    denoiser = exact_denoiser(process, mixture)

    class InFloat32:
        def __init__(self):
            self.process = process

        def __call__(self, x, t):
            assert x.dtype == torch.float32
            return denoiser(x.double(), t).float()

    assert drain(sampler.steps(InFloat32(), x.float(), Karras().times(process, 5), noise=noise)).dtype == torch.float32


def test_a_stochastic_sampler_asks_for_noise(exact_denoiser, mixture):
    assert [name for name, sampler in SAMPLERS.items() if sampler.stochastic] == list(STOCHASTIC)
    x, _ = start(EDM())
    with pytest.raises(ValueError, match="noise"):
        next(DDPMAncestral().steps(exact_denoiser(EDM(), mixture), x, Karras().times(EDM(), 3)))


def test_the_order_does_not_break_on_the_first_step_out_of_pure_noise(exact_denoiser, mixture):
    # λ is −∞ at the start and +∞ at the end: both steps are of first order, and nothing is NaN.
    process = RectifiedFlow()
    x, _ = start(process)
    times = torch.linspace(1, 0, 4, dtype=F64)
    for sampler in (Heun(), Heun(pairs=False), DPMpp2M()):
        assert bool(drain(sampler.steps(exact_denoiser(process, mixture), x, times)).isfinite().all())
