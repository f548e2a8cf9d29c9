"""The loop around the samplers: which times, how many steps, from which noise, at what price."""

from __future__ import annotations

import time
from types import SimpleNamespace

import attrs
import pytest
import torch
from atlas_solvers_builtin.grids.karras import Karras
from atlas_solvers_builtin.grids.logistic_log_snr import LogisticLogSNR
from atlas_solvers_builtin.grids.uniform import Uniform
from atlas_solvers_builtin.guidance.classifier_free import ClassifierFree
from atlas_solvers_builtin.parametrizations import edm
from atlas_solvers_builtin.parametrizations.eps import Eps
from atlas_solvers_builtin.parametrizations.v import V
from atlas_solvers_builtin.processes.edm import EDM
from atlas_solvers_builtin.processes.rectified_flow import RectifiedFlow
from atlas_solvers_builtin.processes.vp_cosine import VPCosine
from atlas_solvers_builtin.samplers.ddpm_ancestral import DDPMAncestral
from atlas_solvers_builtin.samplers.dpmpp_2m import DPMpp2M
from atlas_solvers_builtin.samplers.euler import Euler
from atlas_solvers_builtin.samplers.heun import Heun
from torch import nn

from atlas_core.contracts import Condition
from atlas_core.engine.denoiser import NetworkDenoiser
from atlas_core.engine.network import Network
from atlas_core.engine.noise import CounterNoise
from atlas_core.engine.sampling import drain, draw, sample_steps, sampling_times, start_time, steps_for
from atlas_core.errors import PluginError, RunError, UsageError

F64 = torch.float64


class Smooth(nn.Module):
    """An untrained network that mixes the entries of a sample, and never those of two."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 16).view(4, 4))

    def forward(self, x, c_noise, condition=None):
        out = torch.tanh((x.view(-1, 1, 4) * self.weight).sum(-1) + c_noise[:, None])
        return (out if condition is None else out + condition.vector).view(x.shape)


class Label:
    dropout, widths = 0.1, {"vector": 4}

    def encode(self, inputs):
        return Condition(vector=torch.tensor(inputs, dtype=torch.float32)[:, None].expand(-1, 4))

    def null(self, batch):
        return Condition(vector=torch.zeros(batch, 4))


def network(**options):
    return Network(EDM(), edm.EDM(sigma_data=0.5), Smooth(), **options)


@pytest.mark.parametrize("sampler", [Euler(), Heun(), DPMpp2M(), DDPMAncestral()], ids=lambda s: type(s).__name__)
def test_sample_i_is_the_same_in_every_batch(sampler):
    net = network(conditioner=Label())
    times = sampling_times(Karras(), net.process, net.parametrization, 7)
    options = {"inputs": [0, 1, 2, 3, 4, 5, 6], "guidance": ClassifierFree(scale=2.0)}
    together = draw(net, sampler, times, range(100, 107), (2, 2), **options)
    assert together.dtype == torch.float32
    assert together.shape == (7, 2, 2)
    for batch in (1, 3):
        assert torch.equal(draw(net, sampler, times, range(100, 107), (2, 2), batch=batch, **options), together)
    assert torch.equal(
        draw(net, sampler, times, [104], (2, 2), inputs=[4], guidance=ClassifierFree(scale=2.0))[0], together[4]
    )
    assert not torch.equal(together[0], together[1])


def test_draw_restores_the_mode_and_shows_every_step():
    net, seen = network(), []
    net.train()
    times = sampling_times(Karras(), net.process, net.parametrization, 3)
    draw(net, Euler(), times, range(5), (4,), batch=2, on_step=lambda step, rows: seen.append((step.index, rows.start)))
    assert net.training
    assert seen == [(i, start) for start in (0, 2, 4) for i in range(3)]


def test_draw_refuses_conditions_that_nothing_can_use():
    net = network()
    times = sampling_times(Karras(), net.process, net.parametrization, 3)
    with pytest.raises(UsageError, match="2 conditions for 3 samples"):
        draw(net, Euler(), times, range(3), (4,), inputs=[1, 2])
    with pytest.raises(UsageError, match="without a conditioner"):
        draw(net, Euler(), times, range(2), (4,), inputs=[1, 2])


def test_sampling_starts_from_the_prior_and_keeps_no_graph():
    net = network()
    times = sampling_times(Karras(), net.process, net.parametrization, 4)
    noise = CounterNoise.from_seeds([3, 9])
    seen = []

    class Watching(Euler):
        def steps(self, denoiser, x, times, *, noise=None):
            seen.append(x)
            yield from Euler().steps(denoiser, x, times, noise=noise)

    out = list(sample_steps(Watching(), NetworkDenoiser(net), times, noise, (4,), F64))
    torch.testing.assert_close(seen[0], 80 * noise.normal("prior", 0, torch.empty(2, 4, dtype=F64)))
    assert not out[-1].x.requires_grad
    assert torch.is_grad_enabled()
    assert drain(out) is out[-1].x


def test_a_sampler_that_integrates_something_else_is_refused():
    bridge = SimpleNamespace(accepts=frozenset({"dynamics"}))
    with pytest.raises(UsageError, match="dynamics, not a denoiser"):
        next(sample_steps(bridge, NetworkDenoiser(network()), torch.zeros(2), CounterNoise.from_seeds([0]), (4,)))
    with pytest.raises(ValueError, match="no step"):
        drain([])


@pytest.mark.parametrize(
    ("sampler", "asked", "expected"),
    [
        (Euler(), {"nfe": 20}, 20),
        (Euler(), {}, 20),
        (Heun(pairs=False), {"nfe": 20}, 10),
        (Heun(pairs=False), {"nfe": 1}, 1),
        (Heun(pairs=False), {"nfe": 2}, 1),
        (Heun(pairs=False), {"nfe": 3}, 2),
        (Heun(pairs=False), {"steps": 7}, 7),
    ],
)
def test_as_many_steps_as_fit(sampler, asked, expected):
    assert steps_for(sampler, **asked) == expected


@pytest.mark.parametrize(
    ("cost", "asked", "message"),
    [
        (lambda n: 3 * n, {"nfe": 2}, "takes 3 calls"),
        (lambda n: None, {"nfe": 9}, "its tolerance"),
        (lambda n: n, {"nfe": 9, "steps": 3}, "one of them"),
        (lambda n: n, {"steps": 0}, "at least 1"),
    ],
)
def test_steps_that_do_not_fit_are_explained(cost, asked, message):
    with pytest.raises(UsageError, match=message):
        steps_for(SimpleNamespace(nfe=cost), **asked)


@pytest.mark.parametrize("grid", [Karras(), Uniform(), LogisticLogSNR()], ids=lambda g: type(g).__name__)
@pytest.mark.parametrize("process", [RectifiedFlow(), VPCosine()], ids=lambda p: type(p).__name__)
def test_sampling_starts_where_the_parametrization_is_finite(grid, process):
    assert start_time(process) == start_time(process, V()) == 1
    assert start_time(process, Eps()) == Eps().t_max(process) < 1
    times = sampling_times(grid, process, Eps(), 10)
    assert float(times[0]) == Eps().t_max(process)
    assert bool((times.diff() < 0).all())
    assert float(sampling_times(grid, process, V(), 10)[0]) == 1


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1.0, 0.5, 0.0], "shape"),
        ([1.0, 0.5, 0.5, 0.0], "strictly decrease"),
        ([1.0, float("nan"), 0.5, 0.0], "strictly decrease"),
        ([1.5, 1.0, 0.5, 0.0], "beyond t_max"),
        ([1.0, 0.7, 0.5, 0.1], "end at"),
    ],
)
def test_a_grid_that_breaks_its_contract_is_named(times, message):
    class Broken:
        def times(self, process, steps):
            return torch.tensor(times, dtype=F64)

    with pytest.raises(PluginError, match=f"Broken.*{message}"):
        sampling_times(Broken(), EDM(), V(), 3)


@attrs.frozen
class Foreign:
    """A process as a stranger writes it: every method its own, σ/α = t/(1 − t)² · 4, no base class of ours."""

    t_min, t_max = 0.01, 0.95

    def alpha(self, t):
        return (1 - t) ** 2

    def sigma(self, t):
        return 4 * t

    def alpha_dot(self, t):
        return -2 * (1 - t)

    def sigma_dot(self, t):
        return torch.full_like(t, 4.0)

    def log_snr(self, t):
        return 2 * (self.alpha(t) / self.sigma(t)).log()

    def time_of_log_snr(self, log_snr):
        level = torch.exp(-log_snr / 2) / 4  # t = level (1 − t)²
        return 2 * level / (1 + 2 * level + (1 + 4 * level).sqrt())

    def mix(self, x0, z, t):
        alpha, sigma = (c.to(x0.dtype).view(-1, *[1] * (x0.ndim - 1)) for c in (self.alpha(t), self.sigma(t)))
        return alpha * x0 + sigma * z

    def ode_step(self, s, t):
        keep = self.sigma(t) / self.sigma(s)
        return keep, self.alpha(t) - self.alpha(s) * keep

    def posterior(self, s, t):
        gone = 1 - (self.alpha(s) * self.sigma(t) / (self.alpha(t) * self.sigma(s))) ** 2
        keep = self.alpha(s) * self.sigma(t) ** 2 / (self.alpha(t) * self.sigma(s) ** 2)
        return keep, self.alpha(t) * gone, self.sigma(t) * gone.sqrt()

    def prior(self, unit, t=1.0):
        return 4 * t * unit


@pytest.mark.parametrize("grid", [Karras(), Uniform(), LogisticLogSNR()], ids=lambda g: type(g).__name__)
@pytest.mark.parametrize("sampler", [Euler(), Heun(), DPMpp2M(), DDPMAncestral()], ids=lambda s: type(s).__name__)
def test_a_strangers_process_works_with_everything(sampler, grid):
    class GaussianModel(nn.Module):
        """The exact v of N(0, 0.5²), from what the parametrization shows it."""

        def forward(self, x, c_noise, condition=None):
            t = Foreign().time_of_log_snr(-8 * c_noise)[:, None]
            alpha, sigma = Foreign().alpha(t), Foreign().sigma(t)
            radius = torch.hypot(alpha, sigma)
            x = x * radius.clamp(min=1)
            data = alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * x
            return (alpha * (x - alpha * data) / sigma - sigma * data) / radius

    net = Network(Foreign(), V(), GaussianModel())
    times = sampling_times(grid, net.process, net.parametrization, 100)
    noise = CounterNoise.from_seeds(range(2000))
    out = drain(sample_steps(sampler, NetworkDenoiser(net), times, noise, (4,), F64))
    # The first-order samplers leave up to 8 % on the grid that suits this process least; a wrong sign leaves far more.
    assert float(out.std()) == pytest.approx(0.5, rel=0.1)


def test_a_step_costs_little_beside_the_model():
    class Identity(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, x, c_noise, condition=None):
            return x

    net = Network(EDM(), edm.EDM(sigma_data=0.5), Identity()).eval()
    times = sampling_times(LogisticLogSNR(), net.process, net.parametrization, 50)
    noise = CounterNoise.from_seeds([0])
    costs = []
    for _ in range(20):
        begin = time.thread_time()  # of this thread alone: other processes share the machine
        drain(sample_steps(DPMpp2M(), NetworkDenoiser(net), times, noise, (1, 8, 8)))
        costs.append((time.thread_time() - begin) / 50)
    assert min(costs) <= 200e-6, f"{min(costs) * 1e6:.0f} µs a step"


class Breaks(nn.Module):
    """Answers NaN for one sample from the third call on."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x, c_noise, condition=None):
        self.calls += 1
        out = torch.zeros_like(x)
        out[1] = float("nan") if self.calls >= 3 else 0.0
        return out


def test_a_sample_that_is_not_finite_stops_the_sampling_where_it_broke():
    net = Network(EDM(), edm.EDM(sigma_data=0.5), Breaks())
    times = sampling_times(Karras(), net.process, None, 5)
    with pytest.raises(RunError, match=r"seed 8 is not finite after step 3 of 5, at t = 0\."):
        draw(net, Euler(), times, [7, 8, 9], (4,))
