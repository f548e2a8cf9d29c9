"""Against diffusers itself, on networks with random weights: the same numbers in both directions."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from atlas_diffusers import AtlasScheduler
from torch import Tensor

from atlas_core import build
from atlas_core.contracts import Process
from atlas_core.engine.denoiser import NetworkDenoiser
from atlas_core.engine.network import Network
from atlas_core.engine.noise import CounterNoise
from atlas_core.errors import ConfigError, UsageError

SMALL: dict[str, Any] = {
    "layers_per_block": 1,
    "block_out_channels": (16, 16),
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 8,
}
ONE_CALL = {
    "DDIMScheduler": {},
    "EulerDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "UniPCMultistepScheduler": {},
    "DEISMultistepScheduler": {},
    "LMSDiscreteScheduler": {},
}


@pytest.fixture(scope="module")
def network() -> Network:
    """A network of diffusers as an Atlas network, with random weights."""
    torch.manual_seed(0)
    model = build("model", "diffusers-unet2d", shape=(1, 8, 8), options=SMALL)
    for parameter in model.parameters():  # as made, it says next to nothing
        torch.nn.init.normal_(parameter, std=0.15)
    return Network(build("process", "atlas-diffusers:diffusers"), build("parametrization", "diffusers"), model).eval()


def start(seed: int = 0, n: int = 2) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def by_diffusers(scheduler: Any, unet: Any, noise: Tensor, steps: int) -> Tensor:
    """Sample as the pipelines of diffusers do."""
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(unet(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
    return x


@torch.no_grad()
def by_atlas(network: Network, sampler: Any, grid: Any, noise: Tensor, steps: int) -> Tensor:
    times = grid.times(network.process, steps)
    # diffusers starts from unit noise at its first level; x there is σ z here, so σ ≈ 1 is put back.
    *_, last = sampler.steps(NetworkDenoiser(network), network.process.prior(noise, float(times[0])), times)
    return last.x


# ---- process -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_the_noise_at_whole_steps_is_that_of_diffusers(schedule: str) -> None:
    process: Process = build("process", "atlas-diffusers:diffusers", beta_schedule=schedule)
    kept = diffusers.DDPMScheduler(beta_schedule=schedule).alphas_cumprod.double()
    steps = torch.tensor([0, 1, 17, 500, 998, 999])
    t = (steps.double() + 1) / 1000
    torch.testing.assert_close(process.alpha(t).square(), kept[steps], rtol=2e-4, atol=1e-9)  # theirs is float32
    torch.testing.assert_close(process.alpha(t).square() + process.sigma(t).square(), torch.ones(6).double())


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_the_process_keeps_its_own_promises(schedule: str) -> None:
    process: Process = build("process", "atlas-diffusers:diffusers", beta_schedule=schedule)
    t = torch.tensor([2e-4, 7e-4, 0.0123456, 0.310345, 0.7774, 0.9995], dtype=torch.float64)
    torch.testing.assert_close(process.time_of_log_snr(process.log_snr(t)), t, rtol=1e-9, atol=1e-12)
    h = 1e-7
    for value, slope in ((process.alpha, process.alpha_dot), (process.sigma, process.sigma_dot)):
        torch.testing.assert_close((value(t + h) - value(t - h)) / (2 * h), slope(t), rtol=1e-4, atol=1e-7)
    data = torch.zeros((), dtype=torch.float64)
    assert float(process.alpha(data)) == 1
    assert float(process.sigma(data)) == 0
    assert torch.isfinite(process.sigma_dot(data))


# ---- models --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_prediction_is_what_diffusers_takes_it_for(network: Network, prediction: str) -> None:
    told = Network(network.process, build("parametrization", "diffusers", prediction=prediction), network.model).eval()
    scheduler = diffusers.DDIMScheduler(prediction_type=prediction, clip_sample=False)
    scheduler.set_timesteps(1000)
    x = start(3)
    with torch.no_grad():
        for step in (3, 400, 900):
            output = network.model.unet(x, step).sample
            expected = scheduler.step(output, step, x).pred_original_sample
            found = told.x0(x, torch.tensor((step + 1) / 1000, dtype=torch.float64))
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_weights_come_from_a_folder_that_diffusers_saved(tmp_path: Any) -> None:
    torch.manual_seed(1)
    theirs = diffusers.UNet2DModel(sample_size=8, in_channels=1, out_channels=1, **SMALL)
    theirs.save_pretrained(tmp_path / "unet")
    ours = build("model", "diffusers-unet2d", shape=(1, 8, 8), weights=str(tmp_path / "unet"))
    x, step = start(), torch.tensor([5.0, 900.0])
    with torch.no_grad():
        torch.testing.assert_close(ours(x, step), theirs.eval()(x, step).sample)
    with pytest.raises(ConfigError, match="takes images of"):
        build("model", "diffusers-unet2d", shape=(3, 8, 8), weights=str(tmp_path / "unet"))
    with pytest.raises(ConfigError, match=r"no config\.json"):
        build("model", "diffusers-unet2d", shape=(1, 8, 8), weights=str(tmp_path))


def test_a_dit_with_classes_and_guidance_says_what_diffusers_says() -> None:
    options = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 2,
        "norm_num_groups": 4,
        "out_channels": 8,
        "num_embeds_ada_norm": 10,
    }
    torch.manual_seed(2)
    model = build("model", "diffusers-dit", shape=(4, 8, 8), condition_width=1, options=options).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    conditioner = build("conditioner", "class-index", classes=10)
    process = build("process", "atlas-diffusers:diffusers")
    ours = Network(process, build("parametrization", "diffusers"), model, conditioner).eval()
    x, labels = torch.randn(2, 4, 8, 8), torch.tensor([3, 7])
    t = torch.tensor(0.601, dtype=torch.float64)
    with torch.no_grad():
        denoiser = NetworkDenoiser(ours, conditioner.encode(labels.tolist()), build("guidance", "cfg", scale=2.5))
        found = denoiser(x, t)
        said = [
            model.transformer(x, timestep=torch.full((2,), 600), class_labels=each).sample[:, :4]
            for each in (labels, torch.full((2,), 10))
        ]
        eps = said[1] + 2.5 * (said[0] - said[1])
    expected = (x - float(process.sigma(t)) * eps) / float(process.alpha(t))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# ---- a scheduler as a sampler --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ONE_CALL)
@pytest.mark.parametrize("steps", [5, 12])
def test_a_scheduler_draws_for_atlas_what_it_draws_for_diffusers(network: Network, name: str, steps: int) -> None:
    clip = {"clip_sample": False} if name == "DDIMScheduler" else {}
    theirs = by_diffusers(getattr(diffusers, name)(**clip), network.model.unet, start(), steps)
    sampler, grid = (
        build("sampler", "diffusers", scheduler=name, options=clip),
        build("grid", "diffusers", scheduler=name),
    )
    times = grid.times(network.process, steps)
    # diffusers starts the preserving ones from z, Atlas from σ z, with σ a little below 1.
    x = start()
    preserving = float(getattr(diffusers, name)().init_noise_sigma) <= 1.5
    sigma = float(network.process.sigma(times[0]))
    if preserving:
        x = x / sigma
    with torch.no_grad():
        *_, last = sampler.steps(NetworkDenoiser(network), network.process.prior(x, float(times[0])), times)
    spread = float(theirs.std())
    if preserving:
        assert float((last.x - theirs).abs().max()) < 5e-3 * spread
    else:  # it starts from σ_max √(1 + 1/σ_max²) z in one spacing, σ_max z in another
        assert float((last.x - theirs).abs().max()) < 2e-2 * spread


def test_it_steps_where_the_grid_says_and_agrees_with_our_own_euler(network: Network) -> None:
    grid, x = build("grid", "karras", sigma_max=100), start(4)
    theirs = by_atlas(network, build("sampler", "diffusers", scheduler="EulerDiscreteScheduler"), grid, x, 7)
    ours = by_atlas(network, build("sampler", "euler"), grid, x, 7)
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=2e-3)
    for name in ("edm", "rectified-flow"):
        process = build("process", name)
        denoiser = _Gaussian(process)
        times = build("grid", "logistic-log-snr").times(process, 9)
        begin = process.prior(start(5).double(), float(times[0]))
        exploding = () if float(process.alpha(times[0])) == 0 else ("EulerDiscreteScheduler",)
        for scheduler in (*exploding, "FlowMatchEulerDiscreteScheduler"):
            *_, last = build("sampler", "diffusers", scheduler=scheduler).steps(denoiser, begin, times)
            *_, own = build("sampler", "euler").steps(denoiser, begin, times)
            torch.testing.assert_close(last.x, own.x, rtol=1e-4, atol=1e-4)


class _Gaussian:
    def __init__(self, process: Process) -> None:
        self.process = process

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = float(self.process.alpha(t)), float(self.process.sigma(t))
        return 0.2 + alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * (x - alpha * 0.2)

    def take(self, index: Tensor) -> _Gaussian:
        return self


def test_noise_belongs_to_the_sample(network: Network) -> None:
    sampler = build("sampler", "diffusers", scheduler="EulerAncestralDiscreteScheduler")
    assert sampler.stochastic
    times = build("grid", "diffusers", scheduler="EulerAncestralDiscreteScheduler").times(network.process, 4)
    noise, x = CounterNoise.from_seeds([1, 2, 3]), start(6, n=3) * 50
    with torch.no_grad():
        *_, whole = sampler.steps(NetworkDenoiser(network), x, times, noise=noise)
        *_, alone = sampler.steps(NetworkDenoiser(network), x[1:2], times, noise=noise.select(torch.tensor([1])))
    torch.testing.assert_close(alone.x, whole.x[1:2], rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="draws noise"):
        next(iter(sampler.steps(NetworkDenoiser(network), x, times)))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"scheduler": "EulerDiscretScheduler"}, "EulerDiscreteScheduler"),
        ({"options": {"solver_ordr": 3}}, "has no setting solver_ordr"),
        ({"options": {"prediction_type": "epsilon"}}, "prediction_type is the network's"),
        ({"scheduler": "HeunDiscreteScheduler"}, "one call a step"),
        ({"scheduler": "DDIMScheduler"}, "steps at its own times only"),
    ],
)
def test_what_cannot_be_is_said(given: dict[str, Any], said: str) -> None:
    process = build("process", "edm")
    times = build("grid", "karras").times(process, 5)

    def draw() -> None:
        list(build("sampler", "diffusers", **given).steps(_Gaussian(process), start().double(), times))

    with pytest.raises((ValueError, ConfigError, UsageError), match=said):
        draw()


# ---- a sampler as a scheduler --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["euler", "dpmpp-2m", "heun"])
def test_a_sampler_drives_a_pipeline_to_what_it_draws_itself(network: Network, sampler: str) -> None:
    pipe = diffusers.DDPMPipeline(network.model.unet, diffusers.DDPMScheduler())
    pipe.scheduler = AtlasScheduler.of(pipe.scheduler, sampler=sampler, grid="karras")
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(batch_size=2, num_inference_steps=6, generator=torch.manual_seed(0), output_type="pt").images
    noise = torch.randn(2, 1, 8, 8, generator=torch.manual_seed(0))
    times = build("grid", "karras").times(network.process, 6)
    with torch.no_grad():
        *_, last = build("sampler", sampler).steps(NetworkDenoiser(network), noise, times)
    torch.testing.assert_close(torch.as_tensor(theirs), (last.x / 2 + 0.5).clamp(0, 1), rtol=1e-4, atol=1e-4)


def test_on_the_times_of_ddim_our_euler_is_ddim(network: Network) -> None:
    grid = {"use": "diffusers", "scheduler": "DDIMScheduler"}
    scheduler = AtlasScheduler(sampler="euler", grid=grid)
    ours = by_diffusers(scheduler, network.model.unet, start(8), 10)
    theirs = by_diffusers(diffusers.DDIMScheduler(clip_sample=False), network.model.unet, start(8), 10)
    # The last step of DDIM ends at ᾱ = 1, as ours.
    assert float((ours - theirs).abs().max()) < 2e-3 * float(theirs.std())


def test_a_walk_that_was_left_can_be_begun_again(network: Network) -> None:
    scheduler = AtlasScheduler(sampler="dpmpp-2m")
    whole = by_diffusers(scheduler, network.model.unet, start(9), 5)
    scheduler.set_timesteps(5)
    scheduler.step(torch.zeros(2, 1, 8, 8), scheduler.timesteps[0], start(9))
    assert torch.equal(by_diffusers(scheduler, network.model.unet, start(9), 5), whole)


def test_misuse_of_the_scheduler_is_said(network: Network) -> None:
    scheduler = AtlasScheduler(sampler="euler")
    with pytest.raises(ValueError, match="set_timesteps"):
        scheduler.step(start(), 0, start())
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="steps go in order"):
        scheduler.step(start(), scheduler.timesteps[2], start())
    scheduler.set_timesteps(4)
    x = scheduler.step(torch.zeros(2, 1, 8, 8), scheduler.timesteps[0], start()).prev_sample
    with pytest.raises(ValueError, match="changed between two steps"):
        scheduler.step(torch.zeros(2, 1, 8, 8), scheduler.timesteps[1], x + 1)
    scheduler.close()
    with pytest.raises(ValueError, match="stochastic"):
        AtlasScheduler(sampler="ddpm-ancestral")
    with pytest.raises(ValueError, match="rescale_betas_zero_snr"):
        AtlasScheduler.of(diffusers.DDIMScheduler(rescale_betas_zero_snr=True))
