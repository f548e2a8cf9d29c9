"""How far flow maps of one, two and four calls are from the exact one, on a mixture whose ODE is known.

Trains the same small perceptron on a mixture of Gaussians in the plane, once for every way to learn a flow map, and
measures `rmse_k`: the distance of k jumps from the end of the exact probability-flow ODE, from the same noise, per
value, in units of the data's standard deviation. For comparison: `flow-matching`, whose network knows the velocity at a
point alone, with k
Euler steps; and `teacher_20`: the flow map's own velocity, followed by 20 steps of Heun's method (39 calls).
`consistency` knows the way to the data alone: with more than one call it renoises and ends elsewhere, so that its first
number alone can be compared.

A variant takes less than a minute on an idle core; `--variants mean-flow` runs one alone.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from table import arguments, report
from torch import Tensor

from atlas_core import build
from atlas_core.config.sections import TrainConfig
from atlas_core.engine.checkpoint import open_checkpoint
from atlas_core.engine.denoiser import NetworkDenoiser
from atlas_core.engine.network import Network
from atlas_core.engine.noise import CounterNoise
from atlas_core.engine.sampling import drain, sample_steps, sampling_times
from atlas_core.engine.training.keys import seeded_build
from atlas_core.engine.training.trainer import Trainer
from atlas_core.runs.folder import RunFolder

VARIANTS: dict[str, dict[str, Any]] = {
    "flow-matching": {"use": "flow-matching"},
    "mean-flow": {"use": "flow-map"},
    "mean-flow, differences": {"use": "flow-map", "derivative": "finite-difference"},
    "shortcut": {"use": "flow-map", "target": "shortcut"},
    "consistency": {"use": "flow-map", "target": "consistency"},
}
CALLS = (1, 2, 4)
POINTS = 4000
FINE = 400
"""Steps of Heun's method, in float64, with the exact denoiser."""


class Exact:
    """The denoiser of the mixture."""

    def __init__(self, dataset: Any, process: Any) -> None:
        self.dataset, self.process = dataset, process

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        x0: Tensor = self.dataset.denoise(x, t, self.process)
        return x0

    def take(self, index: Tensor) -> Exact:
        return self


def drawn(sampler: Any, denoiser: Any, process: Any, steps: int, grid: str, dtype: torch.dtype) -> Tensor:
    """Draw POINTS samples, always from the same noise."""
    times = sampling_times(build("grid", grid), process, None, steps)
    noise = CounterNoise.from_seeds(range(POINTS))
    return drain(sample_steps(sampler, denoiser, times, noise, (2,), dtype)).double()


def train(objective: Any, dataset: Any, network: Network, options: Any) -> float:
    """Return the seconds it took; the network then has the averaged weights."""
    config = TrainConfig(
        steps=options.steps,
        batch=512,
        learning_rate=2e-3,
        ema_decay=0.999,
        threads=options.threads,
        validate_every=0,
        sample_every=0,
        checkpoint_every=options.steps,
        device="cpu",
    )
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "run")
        Trainer(network, objective, dataset, config, run).fit()
        network.load_state_dict(open_checkpoint(run.path).load_networks("ema")["denoiser"])
    return time.perf_counter() - began


def measure(name: str, dataset: Any, process: Any, exact: Tensor, options: Any) -> dict[str, Any]:
    """Train one variant and return its row."""
    table = dict(VARIANTS[name])
    objective = build("objective", table.pop("use"), **table)
    trains = getattr(objective, "trains", frozenset())
    model = seeded_build(
        lambda: build("model", "mlp", shape=(2,), width=128, blocks=3, embedding=64, jumps=bool(trains)), seed=0
    )
    network = Network(process, build("parametrization", "velocity", level="time"), model)
    seconds = train(objective, dataset, network, options)
    denoiser = NetworkDenoiser(network.eval())
    once = trains == {"endpoint"}
    settings = {"between": "renoise"} if once else {}
    sampler = build("sampler", "flow-map", **settings) if trains else build("sampler", "euler")
    row: dict[str, Any] = {"variant": name, "seconds": seconds}
    for calls in CALLS:
        if once and calls > 1:
            row[f"rmse_{calls}"] = float("nan")
            continue
        x = drawn(sampler, denoiser, process, calls, "uniform", torch.float32)
        row[f"rmse_{calls}"] = float((x - exact).square().mean().sqrt()) / dataset.spec.std
    row["teacher_20"] = float("nan")
    if not trains or "denoiser" in trains:
        x = drawn(build("sampler", "heun", pairs=False), denoiser, process, 20, "uniform", torch.float32)
        row["teacher_20"] = float((x - exact).square().mean().sqrt()) / dataset.spec.std
    return row


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--steps", type=int, default=3000, help="training steps of 512 points")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dataset = build("dataset", "gaussian-mixture", components=5, width=0.25, train=50_000, seed=1)
    process = build("process", "rectified-flow")
    exact = drawn(
        build("sampler", "heun", pairs=False), Exact(dataset, process), process, FINE, "logistic-log-snr", torch.float64
    )
    rows = [measure(name, dataset, process, exact, options) for name in options.variants]
    report("flow_map", rows, threads=options.threads, as_json=options.json)


if __name__ == "__main__":
    main()
