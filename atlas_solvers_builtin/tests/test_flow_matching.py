"""Flow matching against what is known of it: the loss floor of Gaussian data, the simple loss, the law of its times."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from atlas_solvers_builtin.objectives.denoising import Denoising, DenoisingConfig
from atlas_solvers_builtin.objectives.flow_matching import FlowMatching
from atlas_solvers_builtin.parametrizations.v import V
from atlas_solvers_builtin.parametrizations.velocity import Velocity
from atlas_solvers_builtin.parametrizations.x0 import X0
from atlas_solvers_builtin.processes.rectified_flow import RectifiedFlow
from atlas_solvers_builtin.processes.vp_linear import VPLinear
from scipy import stats
from torch import nn

from atlas_core import build
from atlas_core.contracts import Batch, Objective
from atlas_core.engine.network import Network
from atlas_core.engine.noise import CounterNoise

F64 = torch.float64
TIMES = ("uniform", "logit-normal")


@pytest.mark.parametrize("times", TIMES)
def test_the_loss_floor_is_the_variance_of_the_velocity(times, process, parametrization, gaussian_loss):
    """Given x_t, the velocity varies by (σα̇ − ασ̇)² s² / (α²s² + σ²): the derivatives are taken numerically here."""
    objective, std = FlowMatching(times=times), 0.5
    loss = gaussian_loss(objective, process, parametrization, std=std).per_sample
    u = torch.linspace(0, 1, 4001, dtype=F64)[:-1] + 1 / 8000
    t = objective.draw_times(process, parametrization, u)
    alpha, sigma = process.alpha(t), process.sigma(t)
    step = 1e-6 * torch.minimum(t, 1 - t)
    slopes = [(f(t + step) - f(t - step)) / (2 * step) for f in (process.alpha, process.sigma)]
    floor = (sigma * slopes[0] - alpha * slopes[1]).square() * std**2 / (alpha**2 * std**2 + sigma**2)
    # Four standard errors: forty combinations are compared.
    assert abs(float(loss.mean() - floor.mean())) < 4 * float(loss.std()) / math.sqrt(len(loss))
    worse = gaussian_loss(objective, process, parametrization, std=std, bias=0.3).per_sample
    assert float(worse.mean()) > float(loss.mean())


def test_with_velocity_it_is_the_plain_square_error_of_the_output(gaussian_loss):
    """Denoising weighted 1/c_out² is that, too, by another way."""
    denoising = Denoising(DenoisingConfig(weighting="uniform", times="uniform", sigma_data=0.7))
    for process in (RectifiedFlow(), VPLinear()):
        ours = gaussian_loss(FlowMatching(), process, Velocity(), bias=0.2)
        theirs = gaussian_loss(denoising, process, Velocity(), bias=0.2)
        torch.testing.assert_close(ours.per_sample, theirs.per_sample, rtol=1e-7, atol=0)
        torch.testing.assert_close(ours.logs["mse"], theirs.logs["mse"], rtol=1e-7, atol=0)


def test_on_rectified_flow_the_target_is_noise_minus_data():
    class Says(nn.Module):
        def forward(self, x, c_noise, condition=None):
            return torch.full_like(x, 0.25)

    noise = CounterNoise.for_training(0, torch.arange(16))
    x = torch.randn(16, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    network = Network(RectifiedFlow(), Velocity(), Says())
    loss = FlowMatching().loss({"denoiser": network}, Batch(x=x, step=5), noise).per_sample
    target = noise.normal("noise", 5, x) - x
    torch.testing.assert_close(loss, (0.25 - target).square().mean((1, 2, 3)), rtol=1e-5, atol=1e-6)
    given = FlowMatching().loss({"denoiser": network}, Batch(x=x, source=2 * x, step=5), noise).per_sample
    torch.testing.assert_close(given, (0.25 - x).square().mean((1, 2, 3)), rtol=1e-5, atol=1e-6)


class Half(nn.Module):
    """Says half of what it sees."""

    def forward(self, x, c_noise, condition=None):
        return 0.5 * x


def test_float32_loses_nothing_where_there_is_hardly_any_noise(parametrization):
    """At t near 0.002 the error of x̂₀ is a thousandth of x₀: told by differences of x₀, two digits would be lost."""
    objective = FlowMatching(times="logit-normal", location=-6.0, scale=0.2)
    noise = CounterNoise.for_training(0, torch.arange(64))
    x = 0.7 * noise.normal("data", 0, torch.empty(64, 8, dtype=F64))
    z = noise.normal("noise", 3, x)
    network = Network(RectifiedFlow(), parametrization, Half())
    losses = [
        objective.loss({"denoiser": network}, Batch(x=x.to(dtype), source=z.to(dtype), step=3), noise).per_sample
        for dtype in (torch.float32, F64)
    ]
    assert losses[0].dtype == torch.float32
    torch.testing.assert_close(losses[0].double(), losses[1], rtol=2e-5, atol=0)


def test_times_follow_their_law():
    u = torch.from_numpy(np.random.default_rng(0).random(20_000))
    first, last = RectifiedFlow.t_min, 1.0
    t = FlowMatching().draw_times(RectifiedFlow(), V(), u)
    assert stats.kstest(t.numpy(), stats.uniform(first, last - first).cdf).pvalue > 0.01
    law = FlowMatching(times="logit-normal", location=-0.5, scale=0.8)
    t = law.draw_times(RectifiedFlow(), V(), u)
    assert stats.kstest(torch.logit(t).numpy(), stats.norm(-0.5, 0.8).cdf).pvalue > 0.01
    # Where much of the law lies beyond the ends it is cut there, not heaped up.
    cut = FlowMatching(times="logit-normal", location=-7.0, scale=1.0).draw_times(RectifiedFlow(), V(), u)
    low = (math.log(first / (1 - first)) + 7) / 1.0
    assert stats.kstest(torch.logit(cut).numpy(), stats.truncnorm(low, np.inf, loc=-7).cdf).pvalue > 0.01


def test_times_stay_where_process_and_parametrization_are_finite(process, parametrization):
    u = torch.tensor([0.0, 1e-300, 0.3, 1 - 2**-53], dtype=F64)
    latest = parametrization.t_max(process) if hasattr(parametrization, "t_max") else process.t_max
    for objective in (FlowMatching(), FlowMatching(times="logit-normal", scale=5.0)):
        t = objective.draw_times(process, parametrization, u)
        assert bool(((t >= process.t_min) & (t <= latest)).all())
        assert bool((t.diff() >= 0).all())


def test_a_sample_does_not_depend_on_its_batch_and_each_step_draws_afresh(gaussian_loss):
    whole = gaussian_loss(FlowMatching(), RectifiedFlow(), V())
    part = gaussian_loss(FlowMatching(), RectifiedFlow(), V(), select=torch.tensor([17, 3]))
    torch.testing.assert_close(part.per_sample, whole.per_sample[[17, 3]], rtol=0, atol=1e-12)
    assert torch.equal(whole.per_sample, gaussian_loss(FlowMatching(), RectifiedFlow(), V()).per_sample)
    assert not torch.equal(whole.per_sample, gaussian_loss(FlowMatching(), RectifiedFlow(), V(), step=4).per_sample)


def test_it_is_found_by_name_and_satisfies_the_contract():
    objective = build("objective", "flow-matching", times="logit-normal", scale=0.5)
    assert isinstance(objective, Objective)
    assert objective == FlowMatching(times="logit-normal", scale=0.5)
    assert not objective.couples_batch
    assert build("objective", "flow-matching", coupling="sinkhorn").couples_batch


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"location": 0.5}, "location has no effect with times = 'uniform'"),
        ({"scale": 1.0}, "scale has no effect"),
        ({"times": "cosine"}, "times"),
        ({"times": "logit-normal", "scale": 0.0}, "scale"),
        ({"within_condition": True}, "no effect without a coupling"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FlowMatching(**settings)


def test_x0_and_velocity_agree_on_what_the_loss_is(gaussian_loss):
    """The same network, said in two parametrizations, has one loss: it is the velocity's, not the output's."""
    losses = [gaussian_loss(FlowMatching(), VPLinear(), p, bias=0.1).per_sample for p in (X0(), Velocity(), V())]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(losses[0], losses[2], rtol=1e-6, atol=1e-9)
