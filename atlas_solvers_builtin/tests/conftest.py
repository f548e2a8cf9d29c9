"""What is known without our code: exact denoisers, and the schedules and network outputs as the papers write them."""

from __future__ import annotations

import math

import attrs
import numpy as np
import pytest
import torch
from atlas_solvers_builtin.parametrizations import edm, eps, v, velocity, x0
from atlas_solvers_builtin.processes.edm import EDM
from atlas_solvers_builtin.processes.rectified_flow import RectifiedFlow
from atlas_solvers_builtin.processes.vp_cosine import VPCosine
from atlas_solvers_builtin.processes.vp_linear import VPLinear
from scipy.integrate import solve_ivp
from torch import nn

from atlas_core.contracts import Batch
from atlas_core.engine.network import Network
from atlas_core.engine.noise import CounterNoise

F64 = torch.float64
SIGMA_DATA = 0.7

PROCESSES = {"vp-linear": VPLinear(), "vp-cosine": VPCosine(), "rectified-flow": RectifiedFlow(), "edm": EDM()}
PARAMETRIZATIONS = {
    "eps": eps.Eps(),
    "x0": x0.X0(),
    "v": v.V(),
    "velocity": velocity.Velocity(),
    "edm": edm.EDM(sigma_data=SIGMA_DATA),
}


def pytest_generate_tests(metafunc):
    """`process_name` and `parametrization_name` run over all of ours."""
    for name, table in (("process_name", PROCESSES), ("parametrization_name", PARAMETRIZATIONS)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, list(table))


@pytest.fixture
def process(process_name):
    return PROCESSES[process_name]


@pytest.fixture
def parametrization(parametrization_name):
    return PARAMETRIZATIONS[parametrization_name]


@attrs.frozen(eq=False)
class Mixture:
    """Σ_k w_k N(μ_k, s_k² I), whose denoiser is known: E[x₀ | x₀ + ς z = y]."""

    weights: torch.Tensor
    means: torch.Tensor
    stds: torch.Tensor

    def denoise(self, y, level):
        variance = self.stds.square() + level**2
        distance = (y[:, None] - self.means).square().sum(-1)
        log_weight = self.weights.log() - distance / (2 * variance) - y.shape[1] / 2 * variance.log()
        gain = (self.stds.square() / variance)[:, None]
        return (log_weight.softmax(1)[..., None] * (self.means + gain * (y[:, None] - self.means))).sum(1)

    def sample(self, n, rng):
        which = rng.choice(len(self.weights), size=n, p=self.weights.numpy())
        unit = torch.from_numpy(rng.standard_normal((n, self.means.shape[1])))
        return self.means[which] + self.stds[which, None] * unit


@pytest.fixture(scope="session")
def mixture():
    return Mixture(
        weights=torch.tensor([0.3, 0.5, 0.2], dtype=F64),
        means=torch.tensor([[-1.0, 0.4], [0.8, 0.7], [0.2, -1.1]], dtype=F64),
        stds=torch.tensor([0.25, 0.15, 0.35], dtype=F64),
    )


@attrs.frozen(eq=False)
class ExactDenoiser:
    """The denoiser of a mixture on a process."""

    process: object
    mixture: Mixture

    def __call__(self, x, t):
        alpha, sigma = float(self.process.alpha(t)), float(self.process.sigma(t))
        if alpha == 0:
            return (self.mixture.weights[:, None] * self.mixture.means).sum(0).expand_as(x)
        return self.mixture.denoise(x / alpha, sigma / alpha)

    def take(self, index):
        return self


@pytest.fixture(scope="session")
def exact_denoiser():
    return ExactDenoiser


START, END = 20.0, 0.05


@pytest.fixture(scope="session")
def flow(mixture):
    """Points at σ/α = 20, and where the probability-flow ODE has taken them at 0.05, in units of x/α.

    dy/dς = (y − D(y, ς))/ς, solved in ln ς by scipy's eighth-order method.
    """
    start = mixture.sample(64, np.random.default_rng(0)) + START * torch.from_numpy(
        np.random.default_rng(1).standard_normal((64, 2))
    )

    def slope(log_level, y):
        y = torch.from_numpy(y).view(-1, 2)
        return (y - mixture.denoise(y, math.exp(log_level))).flatten().numpy()

    span = (math.log(START), math.log(END))
    solved = solve_ivp(slope, span, start.flatten().numpy(), method="DOP853", rtol=1e-12, atol=1e-13)
    return start, torch.from_numpy(solved.y[:, -1]).view(-1, 2)


def schedule(process_name, log_snr):
    """α, σ, α̇, σ̇ at a log-SNR, by formulas that share nothing with the package."""
    if process_name == "edm":
        sigma = math.exp(-log_snr / 2)
        return 1.0, sigma, 0.0, 7 * 80 * (sigma / 80) ** (6 / 7)
    if process_name == "rectified-flow":
        t = 1 / (1 + math.exp(log_snr / 2))
        return 1 - t, t, -1.0, 1.0
    alpha, sigma = (1 / math.sqrt(1 + math.exp(sign * log_snr)) for sign in (-1, 1))
    if process_name == "vp-cosine":
        return alpha, sigma, -math.pi / 2 * sigma, math.pi / 2 * alpha
    integral = -2 * math.log(alpha)  # ½ · 19.9 t² + 0.1 t
    beta = 0.1 + 19.9 * (-0.1 + math.sqrt(0.01 + 2 * 19.9 * integral)) / 19.9
    return alpha, sigma, -beta * alpha / 2, beta * alpha**2 / (2 * sigma)


class ExactModel(nn.Module):
    """Returns F itself, written as its paper writes it, for the exact denoiser of a mixture.

    It sees what a trained model sees, c_in · x and c_noise, and knows no c_skip and no c_out.
    """

    def __init__(self, process_name, parametrization_name, mixture):
        super().__init__()
        self.names, self.mixture = (process_name, parametrization_name), mixture

    def forward(self, x, c_noise, condition=None):
        process_name, parametrization_name = self.names
        alpha, sigma, alpha_dot, sigma_dot = schedule(process_name, -8 * float(c_noise[0]))
        d = SIGMA_DATA
        c_in = 1 / math.sqrt(1 + sigma**2) if process_name == "edm" else 1.0
        if parametrization_name == "edm":
            c_in = 1 / math.sqrt(sigma**2 + alpha**2 * d**2)
        x = x / c_in
        data = self.mixture.denoise(x / alpha, sigma / alpha)
        noise = (x - alpha * data) / sigma
        if parametrization_name == "edm":  # Karras et al., eq. 7 and table 1, for x/α with noise σ/α
            level = sigma / alpha
            skip = d**2 / (level**2 + d**2)
            return (data - skip * x / alpha) * math.sqrt(level**2 + d**2) / (level * d)
        return {
            "eps": noise,
            "x0": data,
            "v": (alpha * noise - sigma * data) / math.hypot(alpha, sigma),
            "velocity": alpha_dot * data + sigma_dot * noise,
        }[parametrization_name]


@pytest.fixture(scope="session")
def exact_model(mixture):
    return lambda process_name, parametrization_name: ExactModel(process_name, parametrization_name, mixture)


@pytest.fixture(scope="session")
def paper_schedule():
    return schedule


class GaussianModel(nn.Module):
    """F of the optimal network for x₀ ~ N(0, s²), by inverting the parametrization; float64."""

    def __init__(self, process, parametrization, std, bias=0.0):
        super().__init__()
        self.process, self.parametrization, self.std, self.bias = process, parametrization, std, bias

    def forward(self, x, c_noise, condition=None):
        t = self.process.time_of_log_snr(-8 * c_noise)
        c_in, skip, out, _ = (c[:, None] for c in self.parametrization.coefficients(self.process, t))
        alpha, sigma = self.process.alpha(t)[:, None], self.process.sigma(t)[:, None]
        x = x / c_in
        data = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2) * x + self.bias
        return (data - skip * x) / out


@pytest.fixture(scope="session")
def gaussian_model():
    return GaussianModel


@pytest.fixture(scope="session")
def gaussian_loss():
    """The loss of an objective on N(0, s²) data, with a network that is optimal but for its `bias`."""

    def run(objective, process, parametrization, std=0.7, rows=4096, bias=0.0, select=None, step=3):
        noise = CounterNoise.for_training(0, torch.arange(rows))
        x = std * noise.normal("data", 0, torch.empty(rows, 8, dtype=F64))
        if select is not None:
            noise, x = noise.select(select), x[select]
        network = Network(process, parametrization, GaussianModel(process, parametrization, std, bias))
        return objective.loss({"denoiser": network}, Batch(x=x, step=step), noise)

    return run
