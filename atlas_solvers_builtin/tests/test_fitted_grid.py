"""The grid `fitted`: against the best level in closed form, and on samples that it has not seen."""

from __future__ import annotations

import math

import attrs
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from atlas_core import build
from atlas_core.contracts import FittedGrid, Process, Sampler
from atlas_core.engine.noise import CounterNoise


@attrs.frozen(eq=False)
class Mixture:
    """E[x₀ | x_t] of a mixture of isotropic Gaussians, float64."""

    process: Process
    mean: Tensor
    std: Tensor

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = float(self.process.alpha(t)), float(self.process.sigma(t))
        variance = (alpha * self.std) ** 2 + sigma**2
        off = x[:, None] - alpha * self.mean
        weight = torch.softmax(-0.5 * (x.shape[1] * variance.log() + off.square().sum(-1) / variance), 1)
        gain = alpha * self.std**2 / variance
        return (weight[..., None] * (self.mean + gain[:, None] * off)).sum(1)

    def take(self, index: Tensor) -> Mixture:
        return self


def mixture(process: str, dimension: int, parts: int, seed: int) -> Mixture:
    random = torch.Generator().manual_seed(seed)
    mean = torch.randn(parts, dimension, generator=random, dtype=torch.float64)
    return Mixture(build("process", process), mean, 0.1 + 0.4 * torch.rand(parts, generator=random).double())


def start(denoiser: Mixture, n: int, seed: int = 0) -> Tensor:
    like = torch.empty(n, denoiser.mean.shape[1], dtype=torch.float64)
    unit = CounterNoise.from_seeds(range(seed, seed + n)).normal("prior", 0, like)
    return denoiser.process.prior(unit, denoiser.process.t_max)


def end(sampler: Sampler, denoiser: Mixture, x: Tensor, times: Tensor) -> Tensor:
    *_, last = sampler.steps(denoiser, x, times)
    return last.x


@pytest.mark.parametrize("process", ["edm", "rectified-flow", "vp-cosine"])
def test_on_a_gaussian_two_steps_of_euler_meet_where_calculus_says(process: str) -> None:
    # For N(0, s²) every step multiplies x: the end is x times a function of the one level between, whose best is known.
    s = 0.5
    denoiser = Mixture(build("process", process), torch.zeros(1, 1).double(), torch.tensor([s]).double())
    sampler, grid = build("sampler", "euler"), build("grid", "fitted", samples=32, rounds=20, teacher=500)
    x, t = start(denoiser, 32), denoiser.process.t_max
    fit = grid.fit(denoiser, sampler, x, t, 2)
    fine = end(sampler, denoiser, x, build("grid", "logistic-log-snr").times(denoiser.process, 500))

    def error(level: float) -> float:
        middle = denoiser.process.time_of_log_snr(torch.tensor([-2 * level], dtype=torch.float64))
        times = torch.cat([torch.tensor([t], dtype=torch.float64), middle, torch.zeros(1).double()])
        return float((end(sampler, denoiser, x, times) - fine).square().mean())

    best = minimize_scalar(error, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
    assert math.sqrt(error(fit.grid.levels[0][1])) == pytest.approx(math.sqrt(best.fun), rel=1e-3, abs=1e-4)
    assert fit.after <= fit.before


@pytest.mark.parametrize("dimension", [2, 16])
@pytest.mark.parametrize("process", ["edm", "rectified-flow"])
def test_samples_that_were_not_seen_come_closer_to_the_truth_too(process: str, dimension: int) -> None:
    denoiser = mixture(process, dimension, 5, seed=dimension)
    sampler, usual = build("sampler", "dpmpp-2m"), build("grid", "logistic-log-snr")
    grid = build("grid", "fitted", samples=192, rounds=6)
    t = denoiser.process.t_max
    fitted = grid.fit(denoiser, sampler, start(denoiser, 192), t, 8).grid
    x = start(denoiser, 400, seed=10_000)
    fine = end(sampler, denoiser, x, usual.times(denoiser.process, 600))

    def error(times: Tensor) -> float:
        return float((end(sampler, denoiser, x, times) - fine).square().mean().sqrt())

    assert error(fitted.times(denoiser.process, 8)) < 0.75 * error(usual.times(denoiser.process, 8))


def test_steps_that_were_not_fitted_are_those_of_the_other_grid() -> None:
    process, usual = build("process", "edm"), build("grid", "karras")
    grid: FittedGrid = build("grid", "fitted", levels=((4.0, 1.0, -2.0),), otherwise="karras")
    assert torch.equal(grid.times(process, 5), usual.times(process, 5))
    times = grid.times(process, 3)
    expected = process.time_of_log_snr(-2 * torch.tensor([1.0, -2.0], dtype=torch.float64))
    assert torch.equal(times[1:3], expected)
    assert float(times[0]) == process.t_max
    assert float(times[3]) == 0


def test_a_start_with_less_noise_is_stepped_by_the_other_grid() -> None:
    class Later:
        def __init__(self, process: Process) -> None:
            self.process, self.t_max = process, 0.5

        def __getattr__(self, name: str) -> object:
            return getattr(self.process, name)

    process = Later(build("process", "edm"))
    grid = build("grid", "fitted", levels=((4.0, 1.0, -2.0),))
    assert torch.equal(grid.times(process, 3), build("grid", "logistic-log-snr").times(process, 3))


def test_what_was_fitted_before_is_kept() -> None:
    denoiser = mixture("edm", 2, 3, seed=0)
    grid = build("grid", "fitted", samples=16, rounds=1, teacher=50)
    x, t, sampler = start(denoiser, 16), denoiser.process.t_max, build("sampler", "euler")
    four = grid.fit(denoiser, sampler, x, t, 4).grid
    both = four.fit(denoiser, sampler, x, t, 3).grid
    assert [len(row) for row in both.levels] == [3, 4]
    assert torch.equal(both.times(denoiser.process, 4), four.times(denoiser.process, 4))
    again = both.fit(denoiser, sampler, x, t, 3).grid
    assert again.levels == both.levels


def test_a_sampler_that_draws_noise_is_refused() -> None:
    denoiser = mixture("edm", 2, 3, seed=0)
    with pytest.raises(ValueError, match="draws noise"):
        build("grid", "fitted").fit(denoiser, build("sampler", "ddpm-ancestral"), start(denoiser, 16), 1.0, 4)


@pytest.mark.parametrize("levels", [((1.0, 2.0),), ((1.0, 1.0),), ((),), ((math.nan,),), ((1.0, 0.0), (2.0, 0.0))])
def test_levels_that_make_no_grid_are_refused(levels: tuple[tuple[float, ...], ...]) -> None:
    from atlas_core.errors import ConfigError

    with pytest.raises(ConfigError):
        build("grid", "fitted", levels=levels)
