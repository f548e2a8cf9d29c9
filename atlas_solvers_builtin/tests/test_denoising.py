"""The objective against the losses that are known: the optimum on Gaussian data, and the weights of the papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from atlas_solvers_builtin.objectives import denoising
from atlas_solvers_builtin.parametrizations import edm
from atlas_solvers_builtin.parametrizations.eps import Eps
from atlas_solvers_builtin.parametrizations.v import V
from atlas_solvers_builtin.parametrizations.x0 import X0
from atlas_solvers_builtin.processes.edm import EDM
from atlas_solvers_builtin.processes.rectified_flow import RectifiedFlow
from atlas_solvers_builtin.processes.vp_linear import VPLinear
from scipy import stats
from torch import nn

from atlas_core import build
from atlas_core.contracts import Batch, Objective
from atlas_core.engine.network import Network
from atlas_core.engine.noise import CounterNoise
from atlas_core.engine.training.objective_step import ObjectiveStep

F64 = torch.float64
WEIGHTINGS = ("edm", "min-snr", "uniform")
TIMES = ("log-normal", "logit-normal", "uniform")


def Denoising(**config):
    return denoising.Denoising(denoising.DenoisingConfig(**config))


def test_the_edm_loss_of_the_optimal_network_is_one_on_gaussian_data(process, parametrization, gaussian_loss):
    # The posterior variance is s²ς²/(s² + ς²), whatever the noise level: times (ς² + d²)/(ςd)² with d = s that is 1.
    loss = gaussian_loss(Denoising(weighting="edm", sigma_data=0.7), process, parametrization).per_sample
    assert loss.shape == (4096,)
    assert abs(float(loss.mean()) - 1) < 3 * float(loss.std()) / math.sqrt(len(loss))


@pytest.mark.parametrize(("weighting", "times"), list(zip(WEIGHTINGS, TIMES, strict=True)))
def test_the_loss_floor_is_the_weighted_posterior_variance(weighting, times, process, parametrization, gaussian_loss):
    objective, std = Denoising(weighting=weighting, times=times, sigma_data=0.7), 0.5
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


class MixtureOnTheLine(nn.Module):
    """x̂₀ of ½ N(−1, 0.2²) + ½ N(0.6, 0.5²), as F of the parametrization x0 on a process with its c_in."""

    means, stds = torch.tensor([-1.0, 0.6], dtype=F64), torch.tensor([0.2, 0.5], dtype=F64)

    def __init__(self, process):
        super().__init__()
        self.process = process

    def parts(self, x, t):
        """Responsibilities, and mean and variance of x₀ given x_t = x in each part: (b, 2)."""
        alpha, sigma = (c[:, None] for c in (self.process.alpha(t), self.process.sigma(t)))
        spread = alpha**2 * self.stds**2 + sigma**2
        logits = -((x - alpha * self.means) ** 2) / (2 * spread) - spread.log() / 2
        gain = alpha * self.stds**2 / spread
        return logits.softmax(1), self.means + gain * (x - alpha * self.means), self.stds**2 * sigma**2 / spread

    def forward(self, x, c_noise, condition=None):
        t = self.process.time_of_log_snr(-8 * c_noise)
        c_in = X0().coefficients(self.process, t)[0][:, None]
        share, mean, _ = self.parts(x / c_in, t)
        return (share * mean).sum(1, keepdim=True)

    def floor(self, t):
        """E|x₀ − x̂₀|² at each t, by quadrature over x_t: the closed form of the inner variance, 800 nodes outside."""
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        spread = (alpha[:, None] ** 2 * self.stds**2 + sigma[:, None] ** 2).sqrt()  # (t, 2)
        nodes = torch.linspace(-8, 8, 801, dtype=F64)
        density = torch.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi) * (nodes[1] - nodes[0])
        total = torch.zeros_like(t)
        for part in range(2):
            x = alpha[:, None] * self.means[part] + spread[:, part, None] * nodes  # (t, nodes)
            share, mean, variance = self.parts(x.reshape(-1, 1), t.repeat_interleave(801))
            inner = (share * (variance + mean**2)).sum(1) - (share * mean).sum(1) ** 2
            total += 0.5 * (inner.view(len(t), 801) * density).sum(1)
        return total


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("process", [RectifiedFlow(), EDM(), VPLinear()], ids=lambda p: type(p).__name__)
def test_the_loss_floor_of_a_mixture_is_reached_by_its_exact_denoiser(weighting, process):
    model, rows = MixtureOnTheLine(process), 20_000
    objective = Denoising(weighting=weighting, sigma_data=0.9, times="logit-normal", location=-0.5)
    noise = CounterNoise.for_training(1, torch.arange(rows))
    which = (noise.uniform("part", 0) < 0.5).long()
    x = (model.means[which] + model.stds[which] * noise.normal("data", 0, torch.empty(rows, dtype=F64)))[:, None]
    loss = objective.loss({"denoiser": Network(process, X0(), model)}, Batch(x=x, step=2), noise).per_sample
    u = (torch.arange(400, dtype=F64) + 0.5) / 400
    t = objective.times(process, X0(), u)
    floor = float((objective.weight(process, X0(), t) * model.floor(t)).mean())
    assert abs(float(loss.mean()) - floor) < 3 * float(loss.std()) / math.sqrt(rows)


def test_learned_uncertainty_is_the_logarithm_of_the_expected_loss(gaussian_model):
    """On N(0, s²) with the exact denoiser the expected loss is known at every level: trained briefly, u is its log."""
    process, parametrization, std, d = EDM(), edm.EDM(sigma_data=0.7), 0.25, 0.7
    objective = Denoising(sigma_data=d, uncertainty=True, p_std=1.5)
    model = Network(process, parametrization, gaussian_model(process, parametrization, std))
    assert torch.equal(objective.uncertainty(torch.linspace(-9, 9, 5, dtype=F64)), torch.zeros(5))
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.03)
    noise = CounterNoise.for_training(0, torch.arange(256))
    for step in range(250):
        for group in optimizer.param_groups:
            group["lr"] = 0.03 * (1 - step / 250)
        x = std * noise.normal("data", step, torch.empty(256, 8, dtype=F64))
        output = objective.loss({"denoiser": model}, Batch(x=x, step=step), noise)
        optimizer.zero_grad()
        output.per_sample.mean().backward()
        optimizer.step()
    level = torch.logspace(-1.5, 1, 40, dtype=F64)
    expected = ((level**2 + d**2) / (level * d) ** 2 * (std * level) ** 2 / (std**2 + level**2)).log()
    assert float(expected.max() - expected.min()) > 1.5  # there is something to learn
    learned = objective.uncertainty(-2 * level.log()).double()
    torch.testing.assert_close(learned, expected, rtol=0, atol=0.1)
    # At the optimum the weighted loss is one, whatever the level, so that the mean of L/eᵘ + u is 1 + E[u].
    u = objective.uncertainty(process.log_snr(objective.times(process, parametrization, noise.uniform("time", 250))))
    x = std * noise.normal("data", 250, torch.empty(256, 8, dtype=F64))
    last = objective.loss({"denoiser": model}, Batch(x=x, step=250), noise)
    assert float((last.per_sample - u).detach().mean()) == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(last.logs["weighted"] * (-u).exp() + u, last.per_sample)


def test_uncertainty_is_trained_averaged_and_saved_with_the_network():
    objective = build("objective", "denoising", uncertainty=True, sigma_data=0.5)
    step = ObjectiveStep({"denoiser": Network(EDM(), V(), nn.Linear(2, 2))}, objective)
    assert {"objective.uncertainty.weight", "objective.uncertainty.bias"} <= set(dict(step.named_parameters()))
    assert set(step.parts()["objective"].state_dict()) == {"uncertainty.weight", "uncertainty.bias"}
    assert isinstance(objective, Objective)
    assert not Denoising(sigma_data=0.5).state_dict()


def test_noise_levels_follow_their_law():
    u = torch.from_numpy(np.random.default_rng(0).random(20_000))
    t = Denoising(p_mean=-0.4, p_std=1.0, sigma_data=0.5).times(EDM(), V(), u)
    assert stats.kstest(EDM().sigma(t).log().numpy(), stats.norm(-0.4, 1.0).cdf).pvalue > 0.01
    assert stats.kstest(t.numpy(), stats.uniform(0.22, 0.78).cdf).pvalue < 1e-6
    t = Denoising(times="logit-normal", location=-0.4, scale=0.7, sigma_data=0.5).times(RectifiedFlow(), V(), u)
    assert stats.kstest(torch.logit(t).numpy(), stats.norm(-0.4, 0.7).cdf).pvalue > 0.01
    t = Denoising(times="uniform", sigma_data=0.5).times(VPLinear(), V(), u)
    first = VPLinear().t_min
    assert stats.kstest(t.numpy(), stats.uniform(first, 1 - first).cdf).pvalue > 0.01


def test_times_stay_where_process_and_parametrization_are_finite(process, parametrization):
    u = torch.tensor([0.0, 1e-300, 0.3, 1 - 2**-53], dtype=F64)
    latest = parametrization.t_max(process) if hasattr(parametrization, "t_max") else process.t_max
    for law in ({"p_std": 4.0}, {"times": "uniform"}, {"times": "logit-normal", "scale": 5.0}):
        objective = Denoising(sigma_data=1.0, **law)
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
        ({"times": "uniform", "p_mean": 0.0}, "p_mean has no effect"),
        ({"times": "logit-normal", "p_std": 1.0}, "p_std has no effect"),
        ({"location": 0.0}, "location has no effect with times = 'log-normal'"),
        ({"times": "uniform", "scale": 1.0}, "scale has no effect"),
        ({"times": "cosine"}, "times"),
        ({"weighting": "snr"}, "weighting"),
        ({"weighting": "min-snr", "gamma": 0.0}, "gamma"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Denoising(sigma_data=0.5, **settings)
