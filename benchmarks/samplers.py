"""Deterministic samplers beside those of diffusers and k-diffusion, on mixtures whose denoiser is exact.

RMSE per dimension to the exact end of the probability-flow ODE, 512 samples from σ = 80, float64; calls of the denoiser
are counted and never exceeded. Two problems are those of old, the others are drawn from `--seeds` and none was seen
when grid and sampler were tuned; every other one is guided with scale 4. `best of libraries` is whichever of their rows
is best at that number of calls; `ratio` is that of `multistep` on logistic-log-snr, the default of both, to it, and
`ratio, fitted` that of `multistep` on the grid fitted to the problem, from noise other than that which is scored.

`--safety`: the largest ratio over the problems of each of our samplers to Euler on the same grid at equal calls.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import attrs
import torch
from peers.mixtures import F64, MIXTURES, Mixture
from peers.ode_samplers import LIBRARIES, SIGMA_MAX, Run
from samplers_stochastic import Counted
from table import arguments, report
from torch import Tensor

from atlas_core import build
from atlas_core.engine.sampling import drain, steps_for

COUNT = 512
OURS = ("multistep", "unipc", "dpmpp-3m", "dpmpp-2m", "deis", "dpm-2", "dpmpp-2s", "heun", "euler")


@attrs.frozen(eq=False)
class Problem:
    """A mixture, perhaps guided towards every third of its components."""

    name: str
    mixture: Mixture
    guidance: float = 1.0

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """E[x₀ | x₀ + σ z = x], guided: (n, d) -> (n, d)."""
        either = self.mixture.denoise(x, sigma)
        if self.guidance == 1:
            return either
        part = slice(None, None, 3)
        of = self.mixture
        towards = Mixture("", of.weights[part], of.means[part], of.variances[part]).denoise(x, sigma)
        return either + self.guidance * (towards - either)


def drawn(seed: int) -> Problem:
    """A mixture in 2 to 64 dimensions with a decaying spectrum; guided if the seed is odd."""
    generator = torch.Generator().manual_seed(90_000 + seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, dtype=F64)

    d, count = [2, 4, 8, 16, 32, 64][seed % 6], int(uniform(4, 20))
    spectrum = (1 + float(uniform(0.1, 0.5)) * torch.arange(d, dtype=F64)) ** -float(uniform(0.6, 1.2))
    means = float(uniform(0.7, 1.2)) * spectrum * torch.randn(count, d, generator=generator, dtype=F64)
    stds = (0.05 + 0.35 * spectrum) * uniform(0.1, 1.0, count, d)
    weights = uniform(0.4, 1.6, count)
    guidance = 4.0 if seed % 2 else 1.0
    name = f"seed {seed}, {d}-d{', guided' if seed % 2 else ''}"
    return Problem(name, Mixture(name, weights / weights.sum(), means, stds.clamp_min(0.01) ** 2), guidance)


def ours(name: str) -> Run:
    """A sampler by its name, with its defaults, on the default grid."""

    def run(denoiser: Counted, unit: Tensor, calls: int) -> tuple[Tensor, Tensor, float]:
        sampler = build("sampler", name)
        times = build("grid", "logistic-log-snr").times(denoiser.process, steps_for(sampler, nfe=calls))
        return drain(sampler.steps(denoiser, unit * SIGMA_MAX, times)), unit * SIGMA_MAX, SIGMA_MAX

    return run


def fitted(problem: Problem) -> Run:
    """`multistep` on the grid that is fitted to the problem from 256 other starts; its calls do not count."""

    def run(denoiser: Counted, unit: Tensor, calls: int) -> tuple[Tensor, Tensor, float]:
        sampler, process = build("sampler", "multistep"), denoiser.process
        starts = torch.randn(256, unit.shape[1], generator=torch.Generator().manual_seed(99), dtype=F64)
        grid = build("grid", "fitted", samples=256, rounds=8)
        found = grid.fit(Counted(problem, sys.maxsize), sampler, starts * SIGMA_MAX, process.t_max, calls).grid
        times = found.times(process, calls)
        return drain(sampler.steps(denoiser, unit * SIGMA_MAX, times)), unit * SIGMA_MAX, SIGMA_MAX

    return run


def exact_end(denoise: Callable[[Tensor, float], Tensor], x: Tensor, sigma: float, steps: int = 200) -> Tensor:
    """Follow dx/du = 7 (x − x̂₀)/u with σ = sigma · u⁷ from u = 1 to 0 by the classical fourth-order method."""
    moments = torch.linspace(1, 0, steps + 1, dtype=F64).tolist()

    def slope(x: Tensor, u: float) -> Tensor:
        return 7 * (x - denoise(x, sigma * u**7)) / u

    for u, after in pairwise(moments[:-1]):
        h = after - u
        one = slope(x, u)
        two = slope(x + h / 2 * one, u + h / 2)
        three = slope(x + h / 2 * two, u + h / 2)
        x = x + h / 6 * (one + 2 * two + 2 * three + slope(x + h * three, after))
    return denoise(x, sigma * moments[-2] ** 7)  # σ = 6e-15


class Scored:
    """A problem with its noise, and the exact ends of the starts that have come up."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        generator = torch.Generator().manual_seed(1234)
        self.unit = torch.randn(COUNT, problem.mixture.means.shape[1], generator=generator, dtype=F64)
        self._ends: dict[tuple[float, float], Tensor] = {}

    def error(self, run: Run, calls: int) -> float:
        """RMSE per dimension; infinite where there is a NaN."""
        x, start, sigma = run(Counted(self.problem, calls), self.unit, calls)
        key = (sigma, float(start[0, 0]))
        if key not in self._ends:
            self._ends[key] = exact_end(self.problem.denoise, start.to(F64), sigma)
        error = float((x.to(F64) - self._ends[key]).square().mean().sqrt())
        return error if math.isfinite(error) else math.inf


def compared(problems: Sequence[Problem], budgets: Sequence[int], names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of errors, the best of the libraries, and our ratio to it."""
    rows: list[dict[str, Any]] = []
    ratios: dict[str, dict[int, list[float]]] = {row: {n: [] for n in budgets} for row in ("ratio", "ratio, fitted")}
    for problem in problems:
        scored = Scored(problem)
        table = {name: {calls: scored.error(ours(name), calls) for calls in budgets} for name in names}
        peers = {name: {calls: scored.error(run, calls) for calls in budgets} for name, run in LIBRARIES.items()}
        best = {calls: min(peers, key=lambda name, calls=calls: peers[name][calls]) for calls in budgets}
        table["multistep, fitted"] = {calls: scored.error(fitted(problem), calls) for calls in budgets}
        for calls in budgets:
            for row, name in zip(ratios, (names[0], "multistep, fitted"), strict=True):
                ratios[row][calls].append(table[name][calls] / peers[best[calls]][calls])
        rows += [_row(problem.name, f"atlas {name}", errors) for name, errors in table.items()]
        rows.append(_row(problem.name, "best of libraries", {n: peers[best[n]][n] for n in budgets}))
        rows.append(_row(problem.name, "which it is", best))
        rows += [_row(problem.name, row, {n: of[n][-1] for n in budgets}) for row, of in ratios.items()]
    for row, of in ratios.items():
        rows.append(_row("all", f"mean {row}", {n: sum(of[n]) / len(problems) for n in budgets}))
        rows.append(_row("all", f"largest {row}", {n: max(of[n]) for n in budgets}))
    return rows


def safety(problems: Sequence[Problem], budgets: Sequence[int], names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the largest ratio to Euler over the problems."""
    worst: dict[str, dict[int, float]] = {name: dict.fromkeys(budgets, 0.0) for name in names if name != "euler"}
    for problem in problems:
        scored = Scored(problem)
        for calls in budgets:
            euler = scored.error(ours("euler"), calls)
            for name, found in worst.items():
                found[calls] = max(found[calls], scored.error(ours(name), calls) / euler)
    return [_row("all", f"atlas {name} / euler", found) for name, found in worst.items()]


def _row(problem: str, name: str, cells: dict[int, Any]) -> dict[str, Any]:
    return {"problem": problem, "row": name, **{f"{calls} calls": value for calls, value in cells.items()}}


@torch.no_grad()
def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--nfe", default="5,8,10,15,20,50", help="calls of the denoiser, with commas between them")
    parser.add_argument("--seeds", type=int, default=12, help="problems drawn beside the two public ones")
    parser.add_argument(
        "--samplers", default=",".join(OURS), help="ours, with commas between them; the first is compared"
    )
    parser.add_argument(
        "--safety", action="store_true", help="against Euler instead of the libraries, at 3 to 50 calls"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    warnings.filterwarnings("ignore")
    problems = [Problem(name, mixture) for name, mixture in MIXTURES.items()] + [drawn(i) for i in range(options.seeds)]
    names = options.samplers.split(",")
    if options.safety:
        rows = safety(problems, [*range(3, 13), 15, 20, 25, 30, 40, 50], names)
    else:
        rows = compared(problems, [int(each) for each in options.nfe.split(",")], names)
    report("samplers", rows, threads=options.threads, as_json=options.json)


if __name__ == "__main__":
    main()
