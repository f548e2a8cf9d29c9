"""Flow maps that are known: Gaussians, whose map is linear, and mixtures on the line, whose map keeps quantiles.

Of the exact map the residual has mean zero whatever x_s, and its mean square is j² Var(x₀ | x_s) / c_out², where j is
the derivative of the map.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from atlas_solvers_builtin.grids.uniform import Uniform
from atlas_solvers_builtin.objectives.flow_map import FlowMap
from atlas_solvers_builtin.objectives.flow_matching import FlowMatching
from atlas_solvers_builtin.parametrizations.v import V
from atlas_solvers_builtin.parametrizations.velocity import Velocity
from atlas_solvers_builtin.parametrizations.x0 import X0
from atlas_solvers_builtin.processes.rectified_flow import RectifiedFlow
from atlas_solvers_builtin.processes.vp_linear import VPLinear
from atlas_solvers_builtin.samplers.flow_map import FlowMapSampler
from scipy import stats
from torch import nn

from atlas_core import build
from atlas_core.contracts import Batch, Objective, Sampler
from atlas_core.engine.denoiser import NetworkDenoiser
from atlas_core.engine.network import Network
from atlas_core.engine.noise import CounterNoise
from atlas_core.engine.sampling import drain, sample_steps, sampling_times

F64 = torch.float64
STD = 0.5
TARGETS = [
    {"target": "mean-flow"},
    {"target": "mean-flow", "derivative": "finite-difference"},
    {"target": "shortcut"},
    {"target": "consistency"},
    {"target": "consistency", "derivative": "finite-difference"},
]
each = pytest.mark.parametrize("config", TARGETS, ids=lambda c: "-".join(c.values()))


class ExactMap(nn.Module):
    """F of a known map (x, s, t) -> x_t, plus an error for each row that tests differentiate by; float64.

    Levels beyond what c_noise tells apart are the ends of the process.
    """

    def __init__(self, process, parametrization, of, rows=1):
        super().__init__()
        self.process, self.parametrization, self.map = process, parametrization, of
        self.error = nn.Parameter(torch.zeros(rows, 1, dtype=F64))
        self.rows = None

    def forward(self, x, c_noise, condition=None, *, c_noise_end):
        s, t = (self.process.time_of_log_snr(-8 * c) for c in (c_noise, c_noise_end))
        s = torch.where(c_noise >= 2, self.process.t_max, s)
        t = torch.where(c_noise_end <= -2, 0.0, torch.where(c_noise_end >= 2, self.process.t_max, t))
        c_in, skip, out, _ = (c[:, None] for c in self.parametrization.coefficients(self.process, s))
        x = x / c_in
        return (self.map(x, s, t) - skip * x) / out + self.error[0]


def gaussian_mean(process):
    """x̂₀(x_s, s → t) of N(0, STD²): x_t = x_s · std_t / std_s, solved for it; the denoiser at t = s."""

    def data(x, s, t):
        alpha, sigma, end_alpha, end_sigma = (f(at)[:, None] for at in (s, t) for f in (process.alpha, process.sigma))
        std, end = torch.hypot(alpha * STD, sigma), torch.hypot(end_alpha * STD, end_sigma)
        still = (t == s)[:, None] | ((end_sigma / sigma - 1).abs() < 1e-9)
        pull = torch.where(still, 1.0, end_alpha - alpha * end_sigma / sigma)
        return torch.where(still, alpha * STD**2 / std**2 * x, (end / std - end_sigma / sigma) * x / pull)

    return data


def stretch(process, s, t):
    stds = [torch.hypot(process.alpha(at) * STD, process.sigma(at)) for at in (s, t)]
    return stds[1] / stds[0]


def residuals(objective, process, parametrization, mean, x, noise, step=3):
    """The residual of each row, as half the derivative of its loss by an error of its output, and the loss."""
    model = ExactMap(process, parametrization, mean)
    network = Network(process, parametrization, model)
    output = objective.loss({"denoiser": network}, Batch(x=x, step=step), noise)
    total = output.per_sample
    return total, model


@pytest.mark.parametrize("config", [c for c in TARGETS if "derivative" not in c], ids=lambda c: c["target"])
def test_the_loss_of_the_exact_map_is_its_floor_and_its_gradient_zero(config, process, parametrization):
    at_its_floor(config, process, parametrization)


@pytest.mark.parametrize("config", [c for c in TARGETS if "derivative" in c], ids=lambda c: c["target"])
def test_finite_differences_say_the_same(config, process):
    at_its_floor(config, process, V())


def at_its_floor(config, process, parametrization):
    """And with an output that is off the loss is larger. Sixty combinations are compared: four standard errors."""
    objective, rows = FlowMap(**config), 2000
    if config["target"] == "consistency" and isinstance(parametrization, X0):
        pytest.skip("refused: it has no boundary")
    noise = CounterNoise.for_training(0, torch.arange(rows))
    x = STD * noise.normal("data", 0, torch.empty(rows, 1, dtype=F64))
    loss, model = residuals(objective, process, parametrization, gaussian_mean(process), x, noise)
    s, t = objective.draw_steps(process, parametrization, noise.uniform("time", 3, (5,)))
    posterior = STD**2 * process.sigma(s) ** 2 / (process.alpha(s) ** 2 * STD**2 + process.sigma(s) ** 2)
    floor = stretch(process, s, t) ** 2 * posterior / parametrization.coefficients(process, s)[2] ** 2
    if config["target"] == "shortcut":  # two exact halves are one exact whole, unless they are taken to be straight
        long = s - torch.where(t == 0, process.t_min, t) > 2 / 128
        assert float(loss.detach()[long].max()) < 1e-12
        assert float(loss.detach()[(t < s) & ~long].max()) < 1e-3
        floor = torch.where(t < s, loss.detach(), floor)
    difference = (loss - floor).detach()
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / math.sqrt(rows) + 1e-9
    gradient = torch.autograd.grad(loss.mean(), model.error)[0]
    # Half the gradient is the mean residual, whose variance is the loss.
    assert abs(float(gradient)) / 2 < 4 * float(loss.detach().mean().sqrt()) / math.sqrt(rows) + 1e-6
    with torch.no_grad():
        model.error += 3 * float(loss.mean().sqrt()) + 0.1
    network = Network(process, parametrization, model)
    worse = objective.loss({"denoiser": network}, Batch(x=x, step=3), noise).per_sample
    assert float(worse.detach().mean()) > 1.05 * float(loss.detach().mean())


MEANS, STDS, SHARES = (torch.tensor(v, dtype=F64) for v in ([-1.0, 0.6], [0.2, 0.45], [0.4, 0.6]))


class OnTheLine:
    """The flow map of a mixture on the line: the ODE keeps the order of points, so it maps quantile to quantile."""

    def __init__(self, process):
        self.process = process

    def parts(self, x, t):
        alpha, sigma = (f(t)[:, None] for f in (self.process.alpha, self.process.sigma))
        spread = (alpha**2 * STDS**2 + sigma**2).sqrt()
        return alpha, sigma, spread, (x - alpha * MEANS) / spread

    def cdf(self, x, t):
        return (SHARES * torch.special.ndtr(self.parts(x, t)[3])).sum(1, keepdim=True)

    def density(self, x, t):
        _, _, spread, unit = self.parts(x, t)
        return (SHARES * torch.exp(-(unit**2) / 2) / spread).sum(1, keepdim=True) / math.sqrt(2 * math.pi)

    def posterior(self, x, t):
        """Mean and variance of x₀ given x_t = x."""
        alpha, sigma, spread, unit = self.parts(x, t)
        share = (SHARES.log() - unit**2 / 2 - spread.log()).softmax(1)
        mean = MEANS + alpha * STDS**2 / spread * unit
        first = (share * mean).sum(1, keepdim=True)
        return first, (share * (STDS**2 * sigma**2 / spread**2 + mean**2)).sum(1, keepdim=True) - first**2

    def end(self, x, s, t):
        wanted = self.cdf(x, s)
        low, high = torch.full_like(x, -12.0), torch.full_like(x, 12.0)
        for _ in range(60):
            middle = (low + high) / 2
            below = self.cdf(middle, t) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def __call__(self, x, s, t):
        keep, pull = (c[:, None] for c in self.process.ode_step(s, t))
        still = pull.abs() < 1e-6
        mean = (self.end(x, s, t) - keep * x) / torch.where(still, 1.0, pull)
        return torch.where(still, self.posterior(x, s)[0], mean)


@pytest.mark.parametrize("config", [c for c in TARGETS if c.get("derivative") or c["target"] == "shortcut"], ids=str)
@pytest.mark.parametrize("process", [RectifiedFlow(), VPLinear()], ids=lambda p: type(p).__name__)
def test_the_exact_map_of_a_mixture_is_at_its_floor_too(config, process):
    """Bisection has no derivative of its own: the target takes finite differences of it."""
    objective, rows = FlowMap(**config, times="logit-normal", ends=0.2), 1500
    truth = OnTheLine(process)
    noise = CounterNoise.for_training(2, torch.arange(rows))
    which = (noise.uniform("part", 0) < SHARES[1]).long()
    x = (MEANS[which] + STDS[which] * noise.normal("data", 0, torch.empty(rows, dtype=F64)))[:, None]
    loss, model = residuals(objective, process, V(), truth, x, noise)
    s, t = objective.draw_steps(process, V(), noise.uniform("time", 3, (5,)))
    x_s = process.mix(x, noise.normal("noise", 3, x), s)
    j = truth.density(x_s, s) / truth.density(truth.end(x_s, s, t), t)
    floor = (j**2 * truth.posterior(x_s, s)[1])[:, 0] / V().coefficients(process, s)[2] ** 2
    if config["target"] == "shortcut":
        long = s - torch.where(t == 0, process.t_min, t) > 2 / 128
        assert float(loss.detach()[long].max()) < 1e-9
        floor = torch.where(t < s, loss.detach(), floor)
    difference = (loss - floor).detach()
    assert abs(float(difference.mean())) < 3 * float(difference.std()) / math.sqrt(rows) + 1e-6
    gradient = torch.autograd.grad(loss.mean(), model.error)[0]
    assert abs(float(gradient)) / 2 < 3 * float(loss.detach().mean().sqrt()) / math.sqrt(rows) + 1e-5


def test_on_rectified_flow_the_target_is_that_of_mean_flow():
    """u_target = (z − x₀) − (s − t) du/ds (Geng et al. 2025, eq. 10), the derivative written out by hand."""

    class Bilinear(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(0.3, dtype=F64))

        def forward(self, x, c_noise, condition=None, *, c_noise_end):
            return self.gain * x * (1 + c_noise + 2 * c_noise_end)[:, None]

    process, parametrization, rows = RectifiedFlow(), Velocity(level="time"), 64
    objective = FlowMap(times="logit-normal")
    noise = CounterNoise.for_training(0, torch.arange(rows))
    x0 = noise.normal("data", 0, torch.empty(rows, 3, dtype=F64))
    loss = objective.loss({"denoiser": Network(process, parametrization, Bilinear())}, Batch(x=x0, step=1), noise)
    z = noise.normal("noise", 1, x0)
    s, t = objective.draw_steps(process, parametrization, noise.uniform("time", 1, (5,)))
    c, end, slope = s / 4, t / 4, 0.25  # what it is told of the level
    x, level = (1 - s)[:, None] * x0 + s[:, None] * z, (1 + c + 2 * end)[:, None]
    u, du = 0.3 * x * level, 0.3 * ((z - x0) * level + x * slope)
    target = (z - x0) - (s - t)[:, None] * du
    torch.testing.assert_close(loss.per_sample, (u - target).square().mean(1), rtol=1e-9, atol=1e-12)
    differences = FlowMap(times="logit-normal", derivative="finite-difference")
    again = differences.loss({"denoiser": Network(process, parametrization, Bilinear())}, Batch(x=x0, step=1), noise)
    torch.testing.assert_close(again.per_sample, loss.per_sample, rtol=0.02, atol=1e-3)
    assert float((t == 0).sum()) > 5 < float((s == 1).sum())


def test_without_a_step_it_is_flow_matching():
    process, rows = RectifiedFlow(), 64
    noise = CounterNoise.for_training(0, torch.arange(rows))
    x = noise.normal("data", 0, torch.empty(rows, 3, dtype=F64))
    model = ExactMap(process, Velocity(), gaussian_mean(process))
    network = Network(process, Velocity(), model)

    class Plain(nn.Module):
        def forward(self, x, c_noise, condition=None):
            return model(x, c_noise, c_noise_end=c_noise)

    for config in ({"target": "mean-flow"}, {"target": "shortcut"}):
        ours = FlowMap(**config, instant=1.0, ends=0.0)
        s, t = ours.draw_steps(process, Velocity(), noise.uniform("time", 2, (5,)))
        assert torch.equal(s, t)
        got = ours.loss({"denoiser": network}, Batch(x=x, step=2), noise).per_sample
        plain = Network(process, Velocity(), Plain())
        velocity = plain.raw(process.mix(x, noise.normal("noise", 2, x), s), s)
        torch.testing.assert_close(got, (velocity - (noise.normal("noise", 2, x) - x)).square().mean(1))
    assert FlowMatching().networks == ours.networks


def test_the_adaptive_weight_is_that_of_the_paper_and_has_no_gradient():
    process, rows = RectifiedFlow(), 16
    noise = CounterNoise.for_training(0, torch.arange(rows))
    x = noise.normal("data", 0, torch.empty(rows, 3, dtype=F64))
    plain, model = residuals(FlowMap(), process, Velocity(), gaussian_mean(process), x, noise)
    weighted, _ = residuals(FlowMap(power=0.75), process, Velocity(), gaussian_mean(process), x, noise)
    torch.testing.assert_close(weighted, plain / (plain + 1e-3) ** 0.75)
    total, model = residuals(FlowMap(power=1.0), process, Velocity(), gaussian_mean(process), x, noise)
    gradient = torch.autograd.grad(total.sum(), model.error)[0]
    loss, other = residuals(FlowMap(), process, Velocity(), gaussian_mean(process), x, noise)
    weight = 1 / (loss.detach() + 1e-3)
    torch.testing.assert_close(gradient, torch.autograd.grad((weight * loss).sum(), other.error)[0])


def test_steps_are_drawn_where_samplers_take_them(process, parametrization):
    u = torch.from_numpy(np.random.default_rng(0).random((20_000, 5)))
    latest = parametrization.t_max(process) if hasattr(parametrization, "t_max") else process.t_max
    for config, instant in (({"target": "mean-flow"}, 0.5), ({"target": "shortcut", "instant": 0.3}, 0.3)):
        s, t = FlowMap(**config, ends=0.2).draw_steps(process, parametrization, u)
        assert bool(((process.t_min <= s) & (s <= latest) & (t >= 0) & (t <= s)).all())
        assert bool(((t == 0) | (t >= process.t_min)).all())
        for share, expected in ((t == s, instant), (s == latest, 0.2), (t == 0, 0.2 * (1 - instant))):
            assert float(share.double().mean()) == pytest.approx(expected, abs=0.015)
    s, t = FlowMap(target="consistency", ends=0.0, times="logit-normal", location=0.3, scale=0.5).draw_steps(
        RectifiedFlow(), V(), u
    )
    assert not t.any()
    assert stats.kstest(torch.logit(s).numpy(), stats.norm(0.3, 0.5).cdf).pvalue > 0.01


@each
def test_a_sample_does_not_depend_on_its_batch_and_each_step_draws_afresh(config):
    process, objective = RectifiedFlow(), FlowMap(**config)
    noise = CounterNoise.for_training(0, torch.arange(64))
    x = noise.normal("data", 0, torch.empty(64, 2, dtype=F64))
    losses = [
        residuals(objective, process, V(), gaussian_mean(process), x[rows], noise.select(rows), step)[0].detach()
        for rows, step in ((torch.arange(64), 3), (torch.tensor([17, 3]), 3), (torch.arange(64), 4))
    ]
    torch.testing.assert_close(losses[1], losses[0][[17, 3]], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(losses[0], losses[2])


@each
def test_every_target_trains_a_network_with_attention_in_float32_and_under_autocast(config):
    """The gradient reaches every weight, is finite, and in bfloat16 it points the same way."""
    gradients = []
    for half in (False, True):
        torch.manual_seed(0)
        model = build("model", "unet", shape=(1, 4, 4), channels=8, blocks=1, heads=1, jumps=True)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        network = Network(RectifiedFlow(), Velocity(), model)
        noise = CounterNoise.for_training(0, torch.arange(16))
        x = noise.normal("data", 0, torch.empty(16, 1, 4, 4))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = FlowMap(**config).loss({"denoiser": network}, Batch(x=x, step=0), noise)
        output.per_sample.float().mean().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
        assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in model.parameters())
    assert float(torch.cosine_similarity(*gradients, dim=0)) > 0.98


# ---- the sampler ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_any_number_of_jumps_leads_where_the_ode_does(steps, process, parametrization):
    network = Network(process, parametrization, ExactMap(process, parametrization, gaussian_mean(process)))
    times = sampling_times(Uniform(), process, parametrization, steps)
    noise, denoiser = CounterNoise.from_seeds(range(8)), NetworkDenoiser(network)
    seen = list(sample_steps(FlowMapSampler(), denoiser, times, noise, (1,), F64))
    start = process.prior(noise.normal("prior", 0, torch.empty(8, 1, dtype=F64)), float(times[0]))
    exact = start * STD / torch.hypot(process.alpha(times[0]) * STD, process.sigma(times[0]))
    torch.testing.assert_close(seen[-1].x, exact, rtol=1e-6, atol=1e-9)
    assert [step.t for step in seen] == times[1:].tolist()
    assert denoiser.nfe == FlowMapSampler().nfe(steps) == steps


def test_renoising_draws_the_law_of_the_data_and_one_step_is_the_same():
    process = RectifiedFlow()
    network = Network(process, V(), ExactMap(process, V(), gaussian_mean(process)))
    noise, again = CounterNoise.from_seeds(range(50_000)), FlowMapSampler(between="renoise")
    x = drain(sample_steps(again, NetworkDenoiser(network), Uniform().times(process, 3), noise, (1,), F64))
    assert float(x.std()) == pytest.approx(STD, abs=3 * STD / math.sqrt(2 * len(x)))
    jumped = drain(
        sample_steps(FlowMapSampler(), NetworkDenoiser(network), Uniform().times(process, 3), noise, (1,), F64)
    )
    assert abs(float(np.corrcoef(x[:, 0], jumped[:, 0])[0, 1])) < 0.9  # fresh noise
    one = [
        drain(sample_steps(sampler, NetworkDenoiser(network), Uniform().times(process, 1), noise, (1,), F64))
        for sampler in (again, FlowMapSampler())
    ]
    torch.testing.assert_close(*one)


def test_they_are_found_by_name_and_satisfy_their_contracts():
    objective, sampler = build("objective", "flow-map", target="shortcut"), build("sampler", "flow-map")
    assert isinstance(objective, Objective)
    assert isinstance(sampler, Sampler)
    assert objective.trains == {"denoiser", "flow-map"} >= sampler.accepts
    assert FlowMap(target="consistency").trains == {"endpoint"}
    assert FlowMapSampler(between="renoise").accepts == {"endpoint", "flow-map"}
    with pytest.raises(ValueError, match="noise"):
        next(FlowMapSampler(between="renoise").steps(None, torch.zeros(1), torch.tensor([1.0, 0.0])))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "shortcut", "derivative": "jvp"}, "derivative has no effect"),
        ({"target": "consistency", "instant": 0.5}, "instant has no effect"),
        ({"location": 0.5}, "location has no effect"),
        ({"target": "distillation"}, "target"),
        ({"ends": 1.5}, "ends"),
        ({"power": -1.0}, "power"),
        ({"derivative": "backward"}, "derivative"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FlowMap(**settings)


def test_consistency_is_refused_where_nothing_says_what_the_data_are():
    noise, x = CounterNoise.for_training(0, torch.arange(2)), torch.ones(2, 1, dtype=F64)
    with pytest.raises(ValueError, match="X0 does not: take edm, v or velocity"):
        residuals(FlowMap(target="consistency"), RectifiedFlow(), X0(), gaussian_mean(RectifiedFlow()), x, noise)
