"""What the sampling loop costs beside the network's own forward passes.

1. With a U-Net of a million parameters (28 × 28, float32, batch 16, no guidance): the time of a whole sampling over
   that of as many bare forward passes, median of interleaved pairs. Target: 1.02.
2. With a network that returns its input: microseconds a step, for every sampler. Target: 150. For a stochastic sampler
   once more with its noise drawn beforehand: the loop alone, without the random numbers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from table import arguments, report
from torch import Tensor, nn

from atlas_core import build
from atlas_core.engine.denoiser import NetworkDenoiser
from atlas_core.engine.network import Network
from atlas_core.engine.noise import CounterNoise
from atlas_core.engine.sampling import drain, sample_steps, sampling_times

SHAPE, BATCH = (1, 28, 28), 16
SAMPLERS = ("multistep", "euler", "heun", "dpmpp-2m", "ddpm-ancestral", "sa-solver")
GRID = "logistic-log-snr"


class Identity(nn.Module):
    """A network that costs nothing."""

    def forward(
        self, x: Tensor, c_noise: Tensor, condition: Any = None, *, c_noise_end: Tensor | None = None
    ) -> Tensor:
        return x


class Drawn:
    """A noise source that draws once: what is left is the loop."""

    rows = BATCH

    def __init__(self) -> None:
        self.noise = torch.randn(BATCH, *SHAPE)

    def normal(self, purpose: str, step: int, like: Tensor) -> Tensor:
        return self.noise

    def brownian(self, purpose: str, u0: float, u1: float, like: Tensor) -> Tensor:
        return self.noise


class Sampling:
    """One sampler on one network, set up once: what runs is the loop alone."""

    def __init__(self, sampler: str, model: nn.Module, steps: int, noise: Any = None) -> None:
        self.sampler, self.steps = build("sampler", sampler), steps
        process, parametrization = build("process", "edm"), build("parametrization", "edm", sigma_data=0.5)
        self.denoiser = NetworkDenoiser(Network(process, parametrization, model.eval()))
        self.times = sampling_times(build("grid", GRID), process, parametrization, steps)
        self.noise = noise or CounterNoise.from_seeds(range(BATCH))

    def __call__(self) -> Tensor:
        return drain(sample_steps(self.sampler, self.denoiser, self.times, self.noise, SHAPE))


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@torch.no_grad()
def against_forward_passes(sampler: str, pairs: int, steps: int) -> dict[str, Any]:
    """Return the ratio of sampling to its forward passes; which of the two runs first alternates."""
    model = build("model", "unet", shape=SHAPE, channels=40, multipliers=(1, 2), blocks=2, middle=0).eval()
    sampling = Sampling(sampler, model, steps)
    passes, x, c_noise = sampling.sampler.nfe(steps), torch.randn(BATCH, *SHAPE), torch.zeros(BATCH)

    def forward_passes() -> None:
        for _ in range(passes):
            model(x, c_noise)

    seconds(forward_passes), seconds(sampling)  # warm up
    raw, ours = [], []
    for pair in range(pairs):
        for run, out in [(forward_passes, raw), (sampling, ours)][:: 1 if pair % 2 else -1]:
            out.append(seconds(run))
    ratios = sorted(a / b for a, b in zip(ours, raw, strict=True))
    return {
        "measure": "sampling / forward passes",
        "sampler": sampler,
        "value": statistics.median(ratios),
        "low": ratios[len(ratios) // 4],
        "high": ratios[-1 - len(ratios) // 4],
        "target": 1.02,
        "detail": f"{pairs} pairs, {passes} passes of {1e3 * statistics.median(raw) / passes:.1f} ms, "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters",
    }


def with_an_identity(sampler: str, repeats: int, steps: int, noise: Any = None) -> dict[str, Any]:
    """Return the microseconds that a step takes with a network that costs nothing, prior noise included."""
    sampling = Sampling(sampler, Identity(), steps, noise)
    seconds(sampling)
    each = sorted(1e6 * seconds(sampling) / steps for _ in range(repeats))
    return {
        "measure": "µs a step, identity",
        "sampler": f"{sampler}, noise drawn before" if noise else sampler,
        "value": statistics.median(each),
        "low": each[len(each) // 4],
        "high": each[-1 - len(each) // 4],
        "target": 150.0,
        "detail": f"{repeats} runs of {steps} steps, batch {BATCH}",
    }


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--pairs", type=int, default=20, help="interleaved pairs, and runs of the identity")
    parser.add_argument("--steps", type=int, default=10, help="steps of a sampling with the U-Net")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [with_an_identity(sampler, options.pairs, 100) for sampler in SAMPLERS]
    rows += [with_an_identity(sampler, options.pairs, 100, Drawn()) for sampler in ("ddpm-ancestral", "sa-solver")]
    rows += [against_forward_passes(sampler, options.pairs, options.steps) for sampler in ("multistep", "euler")]
    report("sampling_overhead", rows, threads=options.threads, as_json=options.json)


if __name__ == "__main__":
    main()
