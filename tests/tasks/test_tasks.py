"""Tasks against what is known in closed form for Gaussian images."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from gaussian_field import GaussianField, smooth_covariance
from torch import Tensor

from atlas_core import build
from atlas_core.contracts import Denoiser, Process
from atlas_core.engine.noise import CounterNoise
from atlas_core.engine.sampling import drain, sample_steps, sampling_times
from atlas_core.engine.task import PLAIN, Task
from atlas_core.errors import UsageError
from atlas_core.tasks.hierarchical import Refine, Until, enlarged, matching
from atlas_core.tasks.image_to_image import FromImages
from atlas_core.tasks.inpaint import KnownPixels
from atlas_core.tasks.known import WithKnown, check_passes
from atlas_core.tasks.levels import time_of_strength
from atlas_core.tasks.pixels import block_means, repeated
from atlas_core.tasks.super_resolve import KnownMeans
from atlas_core.tasks.tiled import InTiles, TiledDenoiser, starts

PROCESSES = ("edm", "rectified-flow", "vp-linear", "vp-cosine")


def run(
    denoiser: Denoiser,
    n: int,
    shape: tuple[int, ...],
    *,
    task: Task = PLAIN,
    steps: int = 20,
    sampler: str = "dpmpp-2m",
    seed: int = 0,
) -> Tensor:
    """Draw n float64 samples."""
    times = sampling_times(build("grid", "logistic-log-snr"), denoiser.process, None, steps, latest=task.latest)
    if task.earliest > 0:
        times = torch.cat([times[times > task.earliest], torch.tensor([task.earliest], dtype=torch.float64)])
    noise = CounterNoise.from_seeds(range(seed, seed + n))
    rows = slice(0, n)
    sampled = build("sampler", sampler)
    return drain(sample_steps(sampled, denoiser, times, noise, shape, torch.float64, task=task, rows=rows))


# ---- strength ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROCESSES)
def test_strength_is_the_share_of_noise_on_every_process(name: str) -> None:
    process: Process = build("process", name)
    t = torch.tensor(time_of_strength(process, 0.3), dtype=torch.float64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    assert float(sigma / (alpha + sigma)) == pytest.approx(0.3, rel=1e-9)
    assert time_of_strength(process, 1) == process.t_max


@pytest.mark.parametrize("strength", [0, -0.1, 1.2, math.nan, 1e-9])
def test_a_strength_that_means_nothing_is_refused(strength: float) -> None:
    with pytest.raises(UsageError, match="strength="):
        time_of_strength(build("process", "edm"), strength)


# ---- image to image ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROCESSES)
def test_a_variation_is_as_close_to_its_image_as_theory_says(name: str) -> None:
    # For N(m, s²) the flow map is linear: x₀' − m = s/√(α²s² + σ²) (x_t − αm), so corr(x₀, x₀') = αs/√(α²s² + σ²).
    process: Process = build("process", name)
    mean, s, n = torch.full((1,), 0.3, dtype=torch.float64), 0.5, 20_000
    denoiser = GaussianField(process, mean, torch.tensor([[s**2]], dtype=torch.float64))
    images = mean + s * torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t = time_of_strength(process, 0.3)
    again = run(denoiser, n, (1,), task=FromImages(images, t), steps=40)
    at = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = float(process.alpha(at)), float(process.sigma(at))
    expected = alpha * s / math.hypot(alpha * s, sigma)
    found = torch.corrcoef(torch.stack([images[:, 0], again[:, 0]]))[0, 1]
    assert float(found) == pytest.approx(expected, abs=3 * (1 - expected**2) / math.sqrt(n))
    assert float(again.std()) == pytest.approx(s, rel=0.02)


def test_all_steps_are_spent_between_the_strength_and_the_data() -> None:
    process, grid = build("process", "edm"), build("grid", "logistic-log-snr")
    latest = time_of_strength(process, 0.5)
    times = sampling_times(grid, process, None, 7, latest=latest)
    assert len(times) == 8
    assert float(times[0]) == pytest.approx(latest)


# ---- inpainting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["dpmpp-2m", "ddpm-ancestral", "heun"])
@pytest.mark.parametrize("passes", [1, 3])
def test_known_pixels_come_back_and_follow_the_forward_process_exactly(sampler: str, passes: int) -> None:
    process: Process = build("process", "rectified-flow")
    denoiser = GaussianField(process, torch.zeros(1, 2, 2), smooth_covariance(2, 1.0))
    image = torch.randn(4, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, False], [False, True]]).expand(image.shape)
    task = WithKnown(KnownPixels(image, mask), passes)
    drawn = run(denoiser, 4, (1, 2, 2), task=task, sampler=sampler)
    torch.testing.assert_close(drawn[mask], image[mask], rtol=0, atol=1e-12)
    assert float((drawn - image)[~mask].abs().min()) > 1e-6


def test_walking_back_and_forth_finds_the_conditional_distribution() -> None:
    # x, y ~ N(0, 1) with correlation ρ: given x the missing y is N(ρx, 1 − ρ²).
    process, rho, n = build("process", "rectified-flow"), 0.9, 500
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64)
    denoiser = GaussianField(process, torch.zeros(2), covariance)
    x = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    image, mask = torch.stack([x, torch.zeros_like(x)], 1), torch.tensor([True, False]).expand(n, 2)

    def slope(passes: int) -> float:
        task = WithKnown(KnownPixels(image, mask), passes, 1)
        y = run(denoiser, n, (2,), task=task, sampler="ddpm-ancestral", steps=30)[:, 1]
        return float((x * y).sum() / (x * x).sum())

    # Its standard error is 0.02. One pass cannot know, in the noise, what the known pixel will ask of its neighbour.
    assert slope(12) == pytest.approx(rho, abs=0.05)
    assert slope(1) < 0.75


# ---- super-resolution ----------------------------------------------------------------------------------------------


def test_enlarged_images_have_the_given_block_means_and_a_plausible_rest() -> None:
    process, side, n = build("process", "edm"), 4, 300
    covariance = smooth_covariance(side, 1.5)
    denoiser = GaussianField(process, torch.zeros(1, side, side), covariance)
    truth = torch.randn(n, side**2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    truth = (truth @ torch.linalg.cholesky(covariance + 1e-9 * torch.eye(side**2)).mT).view(n, 1, side, side)
    small = block_means(truth, 2)
    task = WithKnown(KnownMeans(small, 2), passes=4, stride=1)
    drawn = run(denoiser, n, (1, side, side), task=task, sampler="ddpm-ancestral", steps=120)
    torch.testing.assert_close(block_means(drawn, 2), small, rtol=0, atol=1e-12)
    # The best guess from the means is linear: E[x | Ax = y] = C Aᵀ (A C Aᵀ)⁻¹ y. What is drawn scatters around it.
    means = torch.eye(side**2, dtype=torch.float64).view(-1, 1, side, side)
    operator = block_means(means, 2).flatten(1).mT
    gain = covariance @ operator.mT @ torch.linalg.inv(operator @ covariance @ operator.mT)
    left = (drawn.flatten(1) - small.flatten(1) @ gain.mT).var(0).mean()
    expected = (covariance - gain @ operator @ covariance).diagonal().mean()
    assert float(left) == pytest.approx(float(expected), rel=0.1)


def test_means_and_repetition_are_inverse() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(block_means(repeated(x, 3), 3), x)
    assert float(block_means(torch.arange(16.0).view(1, 1, 4, 4), 2)[0, 0, 1, 0]) == (8 + 9 + 12 + 13) / 4


# ---- coarse to fine ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["edm", "vp-cosine"])
def test_an_enlarged_state_has_white_noise_of_the_level_it_claims(name: str) -> None:
    process, factor, n = build("process", name), 2, 40_000
    t_fine = torch.tensor(time_of_strength(process, 0.6), dtype=torch.float64)
    t_coarse = process.time_of_log_snr(torch.tensor(matching(float(process.log_snr(t_fine)), factor)).double())
    noise = CounterNoise.from_seeds(range(n))
    coarse = process.sigma(t_coarse) * noise.normal("coarse", 0, torch.empty(n, 1, 1, 2, dtype=torch.float64))
    unit = noise.normal("detail", 0, torch.empty(n, 1, 2, 4, dtype=torch.float64))
    state = enlarged(process, coarse, float(process.alpha(t_coarse)), unit, float(t_fine), factor)
    sigma = float(process.sigma(t_fine))
    covariance = torch.cov(state.flatten(1).mT) / sigma**2
    assert float((covariance - torch.eye(8)).abs().max()) < 5 * math.sqrt(2 / n)
    scale = float(process.alpha(t_fine) / process.alpha(t_coarse))
    torch.testing.assert_close(block_means(state, factor), coarse * scale)


def test_images_drawn_coarse_first_have_the_covariance_of_the_data() -> None:
    process, side, n = build("process", "edm"), 8, 4000
    covariance = smooth_covariance(side, 2.5)
    pixels = torch.eye(side**2, dtype=torch.float64).view(-1, 1, side, side)
    means = block_means(pixels, 2).flatten(1).mT
    coarse = GaussianField(process, torch.zeros(1, 4, 4), means @ covariance @ means.mT)
    fine = GaussianField(process, torch.zeros(1, side, side), covariance)
    latest = time_of_strength(process, 0.75)
    level = float(process.log_snr(torch.tensor(latest, dtype=torch.float64)))
    earliest = float(process.time_of_log_snr(torch.tensor(matching(level, 2), dtype=torch.float64)))
    states = run(coarse, n, (1, 4, 4), task=Until(earliest), steps=100)
    alpha = float(process.alpha(torch.tensor(earliest, dtype=torch.float64)))
    drawn = run(fine, n, (1, side, side), task=Refine(states, alpha, 2, latest), steps=100)
    found = torch.cov(drawn.flatten(1).mT)
    assert float((found - covariance).norm() / covariance.norm()) < 0.06


# ---- tiles ---------------------------------------------------------------------------------------------------------


class Local:
    """A denoiser of one row each: knows which rows it was taken for, and what shapes it was asked for."""

    def __init__(self, process: Process, level: Tensor, tile: tuple[int, int]) -> None:
        self.process, self.level, self.tile = process, level, tile

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        assert x.shape[-2:] == self.tile
        assert len(x) == len(self.level)
        return self.level.view(-1, 1, 1, 1).expand_as(x)

    def take(self, index: Tensor) -> Local:
        return Local(self.process, self.level[index], self.tile)


@pytest.mark.parametrize("size", [(8, 8), (8, 30), (19, 8), (21, 23)])
@pytest.mark.parametrize("overlap", [0, 3, 7])
def test_tiles_of_a_constant_model_give_constant_images_of_each_row(size: tuple[int, int], overlap: int) -> None:
    levels = torch.tensor([-0.5, 0.25, 0.75])
    inner = Local(build("process", "edm"), levels, (8, 8))
    denoiser = TiledDenoiser(inner, (8, 8), (overlap, overlap), batch=7)
    x0 = denoiser(torch.randn(3, 2, *size), torch.tensor(0.5, dtype=torch.float64))
    assert float((x0 - levels.view(-1, 1, 1, 1)).abs().max()) <= 1e-6
    swapped = denoiser.take(torch.tensor([2, 0]))(torch.randn(2, 2, *size), torch.tensor(0.5, dtype=torch.float64))
    assert float((swapped - levels[[2, 0]].view(-1, 1, 1, 1)).abs().max()) <= 1e-6


@pytest.mark.parametrize("length", range(8, 40))
@pytest.mark.parametrize("overlap", [0, 1, 4, 7])
def test_tiles_cover_everything_each_once(length: int, overlap: int) -> None:
    tops = starts(length, 8, overlap)
    assert len(set(tops)) == len(tops)
    assert tops[0] == 0
    assert tops[-1] == length - 8
    assert all(after - before <= 8 - overlap for before, after in pairwise(tops))


def test_independent_pixels_do_not_see_the_tiles() -> None:
    # Where pixels are independent, a tile knows as much as the whole: tiles change nothing.
    process = build("process", "edm")
    small = GaussianField(process, torch.zeros(1, 4, 4), 0.25 * torch.eye(16, dtype=torch.float64))
    large = GaussianField(process, torch.zeros(1, 4, 10), 0.25 * torch.eye(40, dtype=torch.float64))
    whole = run(large, 3, (1, 4, 10))
    torch.testing.assert_close(run(small, 3, (1, 4, 10), task=InTiles((4, 4), (2, 2), 16)), whole)


def test_an_image_smaller_than_a_tile_is_refused() -> None:
    with pytest.raises(UsageError, match="less than a tile"):
        starts(7, 8, 4)


def test_what_is_no_whole_number_is_refused() -> None:
    for passes in (0, 1.5, True):
        with pytest.raises(UsageError, match="passes="):
            check_passes(passes)  # type: ignore[arg-type]
