"""Stochastic samplers at η = 1 beside those of k-diffusion and diffusers, on mixtures whose denoiser is exact.

Sliced Wasserstein-2 distance of 4096 samples to as many exact ones, mean and standard error over seeds. All start from
the exact marginal at σ = 80, in float64; calls of the denoiser are counted and never exceeded. `floor` is the distance
of two exact sets. Ours run on logistic-log-snr; `on karras` on the grid of the peers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from peers.mixtures import F64, MIXTURES, Mixture, sliced_w2
from table import arguments, report
from torch import Tensor

from atlas_core import build
from atlas_core.engine.noise import CounterNoise
from atlas_core.engine.sampling import drain, steps_for

COUNT, SIGMA_MAX, SIGMA_MIN = 4096, 80.0, 0.002
OURS = ("sa-solver", "dpmpp-2m-sde", "dpmpp-sde", "euler-ancestral", "edm-stochastic")
K_DIFFUSION = {"euler_ancestral": 1, "dpmpp_2s_ancestral": 2, "dpmpp_sde": 2, "dpmpp_2m_sde": 1, "dpmpp_3m_sde": 1}
"""Names and calls a step; one call less in the last."""


class Counted:
    """A denoiser on the process `edm`, at most `budget` times."""

    def __init__(self, mixture: Mixture, budget: int) -> None:
        self.process = build("process", "edm")
        self._mixture, self._left = mixture, budget

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.at(x, float(self.process.sigma(t)))

    def at(self, x: Tensor, sigma: float) -> Tensor:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("more calls than were paid for")
        return self._mixture.denoise(x, sigma)

    def take(self, index: Tensor) -> Counted:
        return self


Run = Callable[[Counted, Tensor, int, int], Tensor]
"""(denoiser, start, calls, seed) -> samples."""


def ours(name: str, grid: str) -> Run:
    def run(denoiser: Counted, x: Tensor, calls: int, seed: int) -> Tensor:
        sampler = build("sampler", name)
        times = build("grid", grid).times(denoiser.process, steps_for(sampler, nfe=calls))
        noise = CounterNoise.from_seeds(range(seed * len(x), (seed + 1) * len(x)))
        return drain(sampler.steps(denoiser, x, times, noise=noise))

    return run


def karras(steps: int) -> Tensor:
    ends = SIGMA_MAX ** (1 / 7), SIGMA_MIN ** (1 / 7)
    return torch.cat([torch.linspace(*ends, steps, dtype=F64) ** 7, torch.zeros(1, dtype=F64)])


def k_diffusion(name: str, cost: int) -> Run:
    def run(denoiser: Counted, x: Tensor, calls: int, seed: int) -> Tensor:
        from peers.k_diffusion import sampling

        torch.manual_seed(seed)
        steps = (calls + cost - 1) // cost
        sample = getattr(sampling(), f"sample_{name}")
        return sample(lambda x, sigma: denoiser.at(x, float(sigma[0])), x, karras(steps), disable=True)

    return run


def diffusers(name: str, **options: Any) -> Run:
    """A scheduler that scales its state as x/√(1 + σ²), on the ρ-grid of the others, as in its documentation."""

    def run(denoiser: Counted, x: Tensor, calls: int, seed: int) -> Tensor:
        import diffusers
        import numpy as np

        alpha_bar = 1 / (1 + np.geomspace(SIGMA_MIN, SIGMA_MAX, 1000) ** 2)
        betas = np.concatenate([[1 - alpha_bar[0]], 1 - alpha_bar[1:] / alpha_bar[:-1]])
        scheduler = getattr(diffusers, name)(trained_betas=betas, use_karras_sigmas=True, **options)
        scheduler.set_timesteps(calls)
        generator = torch.Generator().manual_seed(seed)
        scale = math.hypot(1, float(scheduler.sigmas[0]))
        x = x / scale
        for index, t in enumerate(scheduler.timesteps):
            sigma = float(scheduler.sigmas[index])
            state = x * math.hypot(1, sigma)
            eps = (state - denoiser.at(state, sigma)) / sigma
            x = scheduler.step(eps, t, x, generator=generator).prev_sample
        return x

    return run


def contenders(peers: bool) -> dict[str, Run]:
    found = {f"atlas {name}": ours(name, "logistic-log-snr") for name in OURS}
    found["atlas sa-solver on karras"] = ours("sa-solver", "karras")
    if peers:
        found |= {f"k-diffusion {name}": k_diffusion(name, cost) for name, cost in K_DIFFUSION.items()}
        found["diffusers SDE-DPM++2M"] = diffusers("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++")
    return found


def row(mixture: Mixture, name: str, run: Run, budgets: list[int], seeds: int) -> dict[str, Any]:
    cells: dict[str, Any] = {"problem": mixture.name, "sampler": name}
    for calls in budgets:
        found = []
        for seed in range(seeds):
            unit = torch.randn(
                COUNT, mixture.means.shape[1], generator=torch.Generator().manual_seed(1234 + seed), dtype=F64
            )
            start = mixture.sample(COUNT, 99 + seed) + SIGMA_MAX * unit
            samples = run(Counted(mixture, calls), start, calls, seed)
            found.append(sliced_w2(samples.to(F64), mixture.sample(COUNT, 4321 + seed)))
        values = torch.tensor(found, dtype=F64)
        cells[f"{calls} calls"] = float(values.mean())
        cells[f"± {calls}"] = float(values.std() / math.sqrt(seeds)) if seeds > 1 else 0.0
    return cells


def floor(mixture: Mixture, budgets: list[int], seeds: int) -> dict[str, Any]:
    return row(mixture, "floor", lambda denoiser, x, calls, seed: mixture.sample(COUNT, 77 + seed), budgets, seeds)


@torch.no_grad()
def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--problems", default="gmm64,gmm2", help="names, with commas between them")
    parser.add_argument("--nfe", default="5,8,10,15,20", help="calls of the denoiser, with commas between them")
    parser.add_argument("--seeds", type=int, default=5, help="repetitions")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--only", default="", help="part of the names of the rows to run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    warnings.filterwarnings("ignore")
    budgets = [int(each) for each in options.nfe.split(",")]
    rows = []
    for problem in options.problems.split(","):
        mixture = MIXTURES[problem]
        rows.append(floor(mixture, budgets, options.seeds))
        for name, run in contenders(not options.no_peers).items():
            if options.only in name:
                rows.append(row(mixture, name, run, budgets, options.seeds))
    report("samplers_stochastic", rows, threads=options.threads, as_json=options.json)


if __name__ == "__main__":
    main()
