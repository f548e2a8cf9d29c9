"""Samplers on a trained network: score against NFE beside those of diffusers and k-diffusion, from the same seeds.

    python benchmarks/real_model.py runs/mnist-5k
    python benchmarks/real_model.py runs/mnist-5k --nfe 5,8,10 --count 500 --plot docs/images/real-model.png

Every sampler sees the same network, the same starting noise and the same classes. Ours step on their default grid, and
`fitted` on one that `atlas-core fit-grid` has found for this network; those of the libraries as their documentation
advises, on the ρ = 7 grid of Karras et al. `score` is the Fréchet distance in the features of a classifier; `error` the
distance from the network's own fine solution. The peers: `python -m pip install -r requirements-bench.txt`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded: waiting threads must not spin
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from table import arguments, report
from torch import Tensor

from atlas_core import Pipeline, load
from atlas_core.contracts import Batch
from atlas_core.engine.comparison import Comparison, Entry
from atlas_core.engine.evaluation import clamped, scorers_of, whole
from atlas_core.engine.noise import CounterNoise
from atlas_core.engine.sampling import bind

SIGMA_MAX, SIGMA_MIN = 80.0, 0.002
OURS = {
    "atlas/multistep": ["sampler.use=multistep", "sampling.grid.use=logistic-log-snr"],
    "atlas/unipc": ["sampler.use=unipc", "sampling.grid.use=logistic-log-snr"],
    "atlas/dpmpp-2m": ["sampler.use=dpmpp-2m", "sampling.grid.use=logistic-log-snr"],
    "atlas/euler": ["sampler.use=euler", "sampling.grid.use=logistic-log-snr"],
}
DIFFUSERS = {
    "diffusers/DPM++2M": "DPMSolverMultistepScheduler",
    "diffusers/UniPC": "UniPCMultistepScheduler",
    "diffusers/Euler": "EulerDiscreteScheduler",
}
K_DIFFUSION = ("sample_dpmpp_2m", "sample_euler", "sample_heun", "sample_lms")
Draw = Callable[[int], "tuple[Tensor, int]"]
"""NFE allowed -> (samples, NFE used)."""


def ours(pipeline: Pipeline, overrides: Sequence[str], seeds: range, labels: list[int]) -> Draw:
    varied = pipeline.varied(overrides)

    def draw(nfe: int) -> tuple[Tensor, int]:
        steps = len(varied.times(nfe=nfe)) - 1
        return varied.draw(seeds, labels, nfe=nfe), varied.plan.sampler.build().nfe(steps) or 0

    return draw


def of_diffusers(pipeline: Pipeline, scheduler: str, seeds: range, labels: list[int]) -> Draw:
    options = "" if "Euler" in scheduler else ", options={use_karras_sigmas=true}"
    return ours(
        pipeline,
        [f'sampler={{use="diffusers", scheduler="{scheduler}"{options}}}', 'sampling.grid={use="karras"}'],
        seeds,
        labels,
    )


def of_k_diffusion(pipeline: Pipeline, name: str, seeds: range, labels: list[int]) -> Draw:
    from peers.k_diffusion import sampling

    network, batch, module = pipeline.network, 100, sampling()

    def draw(nfe: int) -> tuple[Tensor, int]:
        steps = (nfe + 1) // 2 if name == "sample_heun" else nfe
        sigmas = module.get_sigmas_karras(steps, SIGMA_MIN, SIGMA_MAX, rho=7.0)
        parts, calls = [], 0
        for first in range(0, len(seeds), batch):
            rows = slice(first, first + batch)
            denoiser = bind(network, len(seeds[rows]), labels[rows], None, None)

            def model(x: Tensor, sigma: Tensor, denoiser: Any = denoiser) -> Tensor:
                log_snr = -2 * torch.log(sigma[0].double().cpu())
                return denoiser(x, network.process.time_of_log_snr(log_snr))

            unit = torch.empty((len(seeds[rows]), *pipeline.spec.shape))
            noise = CounterNoise.from_seeds(seeds[rows]).normal("prior", 0, unit)
            with torch.no_grad():
                parts.append(getattr(module, name)(model, noise * SIGMA_MAX, sigmas, disable=True))
            calls = denoiser.nfe
        return torch.cat(parts), calls

    return draw


def measure(options: Any) -> Comparison:
    torch.set_num_threads(options.threads)
    pipeline = load(options.run, ['evaluate.metrics=[{use="frechet-distance", features="classifier"}]'])
    seeds = range(options.count)
    labels = [i % len(pipeline.spec.classes) for i in seeds]
    contenders = {name: ours(pipeline, overrides, seeds, labels) for name, overrides in OURS.items()}
    for name in ("multistep", "unipc"):
        if pipeline.varied([f"sampler.use={name}"]).plan.grid.id.endswith(":fitted"):
            contenders[f"atlas/{name}, fitted"] = ours(pipeline, [f"sampler.use={name}"], seeds, labels)
    contenders |= {name: of_diffusers(pipeline, each, seeds, labels) for name, each in DIFFUSERS.items()}
    contenders |= {f"k-diffusion/{n[7:]}": of_k_diffusion(pipeline, n, seeds, labels) for n in K_DIFFUSION}
    train, real = (clamped(whole(pipeline.plan.dataset, split), pipeline.spec) for split in ("train", "test"))
    scorers = scorers_of([each.build() for each in pipeline.plan.metrics], train, real, pipeline.spec)
    fine, _ = contenders["atlas/multistep"](options.reference)
    fine = fine.clamp(*pipeline.spec.value_range or (None, None))
    entries = []
    for name, draw in contenders.items():
        for nfe in options.budgets:
            began = time.perf_counter()
            x, used = draw(nfe)
            seconds = time.perf_counter() - began
            x = x.clamp(*pipeline.spec.value_range or (None, None))
            error = float((x - fine).double().square().mean().sqrt())
            batch = Batch(x, torch.tensor(labels), index=torch.arange(len(x)))
            cells = {scorer.name: scorer.score(batch) for scorer in scorers}
            entries.append(Entry(name, nfe, used, None, round(seconds, 2), error, cells))
    columns = tuple(scorer.column([]) for scorer in scorers)
    return Comparison(tuple(entries), columns, options.count, 0, f"multistep at {options.reference} NFE")


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("run", type=Path, help="a run folder with a trained network on the process edm")
    parser.add_argument("--nfe", default="5,8,10,20", help="calls of the network a sample")
    parser.add_argument("--count", type=int, default=500, help="samples of each")
    parser.add_argument("--reference", type=int, default=100, help="NFE of the fine solution")
    parser.add_argument("--plot", type=Path, help="write the plot to this PNG")
    options = parser.parse_args()
    options.budgets = [int(word) for word in options.nfe.split(",")]
    found = measure(options)
    (score,) = found.columns
    rows = [
        {
            "sampler": entry.contender,
            "nfe": entry.nfe,
            "score": entry.cells[score.name].value,
            "error": entry.error,
            "seconds": entry.seconds,
        }
        for entry in found.entries
    ]
    report("real_model", rows, threads=options.threads, as_json=options.json)
    if options.plot:
        from atlas_core.report.comparison import comparison_plot

        options.plot.write_bytes(comparison_plot(found, "light"))


if __name__ == "__main__":
    main()
