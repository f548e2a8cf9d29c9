"""What a coupling of noise and data gains in flow matching, on the images of mnist-5k: one network, one budget.

Trains the same small U-Net with the noise of each batch paired by chance, by `sinkhorn` and by `exact`, and measures

- `loss`: the held-out loss, which is the variance of the velocity given (x_t, t) plus what the network misses of it;
- `gradient`: the variance of the gradient over held-out batches, summed over the weights; for all variants at the same
  weights, those after 150 steps by chance;
- `bend`: how far the velocity strays from the straight line of its path, ∫ |v − (x₁ − x₀)|² dt / |x₁ − x₀|²;
- `euler_k`: the distance of k Euler steps from a fine solution of the same network, a pixel, in units of the data's
  standard deviation; `nfe`: the fewest steps with which it is below 0.05;
- `score_k`: the Fréchet distance to held-out images, in the features of a classifier, after k Euler steps;
- `ms`: a training step, with the coupling.

A variant takes some minutes on two cores; `--variants exact` runs one of them alone.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from table import arguments, report
from torch import Tensor

from atlas_core import build
from atlas_core.config.sections import TrainConfig
from atlas_core.contracts import Batch, Sampler
from atlas_core.engine.checkpoint import open_checkpoint
from atlas_core.engine.denoiser import NetworkDenoiser
from atlas_core.engine.evaluation import whole
from atlas_core.engine.network import Network
from atlas_core.engine.noise import CounterNoise
from atlas_core.engine.sampling import sampling_times
from atlas_core.engine.training.coupling import couples, paired
from atlas_core.engine.training.keys import seeded_build
from atlas_core.engine.training.trainer import Trainer
from atlas_core.runs.folder import RunFolder

VARIANTS: dict[str, dict[str, Any] | None] = {
    "independent": None,
    # In units of the mean cost, most of which is the length of the noise, the same for all: 0.05 would couple nothing.
    "sinkhorn": {
        "use": "sinkhorn",
        "kernel": {"use": "squared-euclidean", "scale": "mean"},
        "epsilon": 0.003,
        "tolerance": 1e-2,
    },
    "exact": {"use": "exact"},
}
MODEL = {"patch": 2, "multipliers": (1, 2), "blocks": 1, "heads": 1}
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
SHOWN, SCORED = (2, 4, 8), (2, 4, 8)
FINE = 50
"""Steps of Heun's method that stand for the exact solution."""
CLOSE = 0.05
REFERENCE_STEPS = 150
SAMPLES, HELD_OUT_BATCHES = 300, 40


class Experiment:
    """One variant: trained, then measured."""

    def __init__(self, name: str, options: Any) -> None:
        self.name, self.options = name, options
        self.dataset = build("dataset", "mnist-5k")
        self.images, self.held_out = whole(self.dataset, "train"), whole(self.dataset, "test")
        coupling = VARIANTS[name]
        self.objective = build("objective", "flow-matching", **({"coupling": coupling} if coupling else {}))
        self.process = build("process", "rectified-flow")
        model = seeded_build(
            lambda: build("model", "unet", shape=self.dataset.spec.shape, channels=options.channels, **MODEL), seed=0
        )
        self.network = Network(self.process, build("parametrization", "velocity"), model)

    def train(self, steps: int) -> float:
        """Return milliseconds a step; the network then has the averaged weights."""
        options = self.options
        config = TrainConfig(
            steps=steps,
            batch=options.batch,
            learning_rate=4e-3,
            ema_decay=0.998,
            threads=options.threads,
            validate_every=0,
            sample_every=0,
            checkpoint_every=steps,
            device="cpu",
        )
        with tempfile.TemporaryDirectory() as folder:
            run = RunFolder(Path(folder) / "run")
            result = Trainer(self.network, self.objective, self.dataset, config, run).fit()
            self.network.load_state_dict(open_checkpoint(run.path).load_networks("ema")["denoiser"])
        return 1e3 * result.timings["steps"] / steps

    def losses(self, network: Network) -> Iterator[Tensor]:
        """Yield the loss of held-out batches, paired as in training."""
        coupled, size, images = couples(self.objective), self.options.batch, self.held_out.x
        for number in range(HELD_OUT_BATCHES):
            index = torch.arange(number * size, (number + 1) * size)
            noise = CounterNoise.for_training(1, index)
            batch = Batch(x=images[index % len(images)], index=index, step=number)
            if coupled is not None:
                batch = paired(coupled, batch, noise)
            yield self.objective.loss({"denoiser": network}, batch, noise).per_sample.mean()

    def gradient_variance(self, network: Network) -> float:
        weights = list(network.parameters())
        gradients = [torch.autograd.grad(loss, weights) for loss in self.losses(network)]
        return sum(float(torch.stack(each).var(0).sum()) for each in zip(*gradients, strict=True))

    @torch.no_grad()
    def solutions(self) -> tuple[list[Tensor], dict[int, Tensor]]:
        """Return the fine path, and where k Euler steps end, from the same noise."""
        like = torch.zeros(SAMPLES, *self.dataset.spec.shape)
        start = CounterNoise.from_seeds(range(SAMPLES)).normal("prior", 0, like)
        denoiser = NetworkDenoiser(self.network)

        def path(sampler: Sampler, steps: int) -> list[Tensor]:
            times = sampling_times(build("grid", "uniform"), self.process, self.network.parametrization, steps)
            return [start, *(step.x for step in sampler.steps(denoiser, start, times))]

        fine = path(build("sampler", "heun", pairs=False), FINE)
        return fine, {steps: path(build("sampler", "euler"), steps)[-1] for steps in STEPS}

    def row(self, reference: Network) -> dict[str, Any]:
        variance = self.gradient_variance(reference)
        milliseconds = self.train(self.options.steps)
        with torch.no_grad():
            loss = sum(map(float, self.losses(self.network))) / HELD_OUT_BATCHES
        fine, euler = self.solutions()
        std = self.dataset.spec.std
        errors = {steps: float((x - fine[-1]).square().mean().sqrt()) / std for steps, x in euler.items()}
        return {
            "coupling": self.name,
            "loss": loss,
            "gradient": variance,
            "bend": bend(fine),
            **{f"euler_{steps}": errors[steps] for steps in SHOWN},
            "nfe": next((steps for steps in STEPS if errors[steps] < CLOSE), math.inf),
            **{f"score_{steps}": self.score(euler[steps]) for steps in SCORED},
            "score_fine": self.score(fine[-1]),
            "ms": milliseconds,
        }

    def score(self, x: Tensor) -> float:
        metric = build("metric", "frechet-distance", features="classifier")
        metric.fit(self.images, self.dataset.spec)
        metric.update(Batch(x.clamp(-1, 1)), self.held_out)
        return float(metric.compute().value)


def bend(path: list[Tensor]) -> float:
    """∫ |v − (x₁ − x₀)|² dt / |x₁ − x₀|², v as the slope of each of the even steps (Liu, Gong & Liu 2023, eq. 6)."""
    straight = path[0] - path[-1]
    steps = len(path) - 1
    strays = sum(float(((a - b) * steps - straight).square().sum()) for a, b in pairwise(path)) / steps
    return strays / float(straight.square().sum())


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of each variant")
    parser.add_argument("--batch", type=int, default=128, help="images a step, coupled together")
    parser.add_argument("--channels", type=int, default=16, help="feature maps of the finest level of the U-Net")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reference = Experiment("independent", options)
    reference.train(REFERENCE_STEPS)
    rows = [Experiment(name, options).row(reference.network) for name in options.variants]
    report("couplings", rows, threads=options.threads, as_json=options.json)


if __name__ == "__main__":
    main()
