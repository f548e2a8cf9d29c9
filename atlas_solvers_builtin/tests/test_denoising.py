"""The objective against the losses that are known: the optimum on Gaussian data, and the weights of the papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from atlas_solvers_builtin.objectives.denoising import Denoising
from atlas_solvers_builtin.parametrizations import edm
from atlas_solvers_builtin.parametrizations.eps import Eps
from atlas_solvers_builtin.parametrizations.v import V
from atlas_solvers_builtin.parametrizations.x0 import X0
from atlas_solvers_builtin.processes.edm import EDM
from atlas_solvers_builtin.processes.rectified_flow import RectifiedFlow
from atlas_solvers_builtin.processes.vp_linear import VPLinear
from scipy import stats

from atlas_core.contracts import Batch
from atlas_core.engine.network import Network
from atlas_core.engine.noise import CounterNoise

F64 = torch.float64
WEIGHTINGS = ("edm", "min-snr", "uniform")


def test_the_edm_loss_of_the_optimal_network_is_one_on_gaussian_data(process, parametrization, gaussian_loss):
    # The posterior variance is s²ς²/(s² + ς²), whatever the noise level: times (ς² + d²)/(ςd)² with d = s that is 1.
    loss = gaussian_loss(Denoising(weighting="edm", sigma_data=0.7), process, parametrization).per_sample
    assert loss.shape == (4096,)
    assert abs(float(loss.mean()) - 1) < 3 * float(loss.std()) / math.sqrt(len(loss))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_loss_floor_is_the_weighted_posterior_variance(weighting, process, parametrization, gaussian_loss):
    objective, std = Denoising(weighting=weighting, sigma_data=0.7), 0.5
    loss = gaussian_loss(objective, process, parametrization, std=std).per_sample
    u = torch.linspace(0, 1, 4001, dtype=F64)[:-1] + 1 / 8000
    t = objective.times(process, parametrization, u)
    alpha, sigma = process.alpha(t), process.sigma(t)
    posterior = std**2 * sigma**2 / (alpha**2 * std**2 + sigma**2)
    floor = float((objective.weight(process, parametrization, t) * posterior).mean())
    # Four standard errors: sixty combinations are compared.
    assert abs(float(loss.mean()) - floor) < 4 * float(loss.std()) / math.sqrt(len(loss))
    worse = gaussian_loss(objective, process, parametrization, std=std, bias=0.3).per_sample
    assert float(worse.mean()) > float(loss.mean())


def test_weights_are_those_of_the_papers():
    t = torch.linspace(0.05, 0.95, 50, dtype=F64)
    process, d = VPLinear(), 0.5
    snr = (process.alpha(t) / process.sigma(t)) ** 2
    # Hang et al. 2023: min(SNR, γ) on x₀; min(SNR, γ)/SNR on ε, whose square error is SNR times that of x₀.
    min_snr = Denoising(weighting="min-snr", gamma=4.0, sigma_data=d).weight(process, X0(), t)
    torch.testing.assert_close(min_snr, torch.minimum(snr, torch.full_like(snr, 4.0)))
    # Ho et al. 2020, eq. 14: the plain square error of ε.
    torch.testing.assert_close(Denoising(weighting="uniform", sigma_data=d).weight(process, Eps(), t), snr)
    torch.testing.assert_close(
        Denoising(weighting="uniform", sigma_data=d).weight(process, X0(), t), torch.ones(50).double()
    )
    # Salimans & Ho 2022, section 4: an error of v is SNR + 1 times one of x₀.
    torch.testing.assert_close(Denoising(weighting="uniform", sigma_data=d).weight(process, V(), t), snr + 1)
    s = 80 * t**7
    karras = Denoising(sigma_data=d)
    torch.testing.assert_close(karras.weight(EDM(), Eps(), t), (s**2 + d**2) / (s * d) ** 2)
    uniform = Denoising(weighting="uniform", sigma_data=d)
    parametrization = edm.EDM(sigma_data=d)
    torch.testing.assert_close(karras.weight(process, X0(), t), uniform.weight(process, parametrization, t))


def test_edm_noise_levels_are_log_normal():
    objective = Denoising(p_mean=-0.4, p_std=1.0, sigma_data=0.5)
    u = torch.from_numpy(np.random.default_rng(0).random(20_000))
    t = objective.times(EDM(), V(), u)
    assert stats.kstest(EDM().sigma(t).log().numpy(), stats.norm(-0.4, 1.0).cdf).pvalue > 0.01
    assert stats.kstest(t.numpy(), stats.uniform(0.22, 0.78).cdf).pvalue < 1e-6


def test_times_stay_where_process_and_parametrization_are_finite(process, parametrization):
    u = torch.tensor([0.0, 1e-300, 0.3, 1 - 2**-53], dtype=F64)
    latest = parametrization.t_max(process) if hasattr(parametrization, "t_max") else process.t_max
    for objective in (Denoising(sigma_data=1.0, p_std=4.0), Denoising(weighting="uniform", sigma_data=1.0)):
        t = objective.times(process, parametrization, u)
        assert bool(((t >= process.t_min) & (t <= latest)).all())
        assert bool((t.diff() >= 0).all())


def test_a_sample_does_not_depend_on_its_batch(gaussian_loss):
    objective = Denoising(sigma_data=0.7)
    whole = gaussian_loss(objective, RectifiedFlow(), V())
    part = gaussian_loss(objective, RectifiedFlow(), V(), select=torch.tensor([17, 3]))
    torch.testing.assert_close(part.per_sample, whole.per_sample[[17, 3]], rtol=0, atol=1e-12)
    assert set(whole.logs) == {"mse"}


def test_each_step_draws_afresh_and_the_same_step_draws_the_same(gaussian_model):
    noise = CounterNoise.for_training(0, torch.arange(4))
    network = Network(EDM(), V(), gaussian_model(EDM(), V(), 0.7))
    losses = [
        Denoising(sigma_data=0.7).loss({"denoiser": network}, Batch(x=torch.ones(4, 8, dtype=F64), step=s), noise)
        for s in (0, 0, 1)
    ]
    assert torch.equal(losses[0].per_sample, losses[1].per_sample)
    assert not torch.equal(losses[0].per_sample, losses[2].per_sample)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weighting": "edm", "gamma": 5.0}, "gamma has no effect"),
        ({"weighting": "min-snr", "p_mean": 0.0}, "p_mean has no effect"),
        ({"weighting": "uniform", "p_std": 1.0}, "p_std has no effect"),
        ({"weighting": "snr"}, "weighting"),
        ({"weighting": "min-snr", "gamma": 0.0}, "gamma"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Denoising(sigma_data=0.5, **settings)
