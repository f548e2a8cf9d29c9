"""A whole entropic transport problem that no memory holds as a matrix: `sinkhorn` on the kernel `streaming`.

    python benchmarks/streaming.py
    python benchmarks/streaming.py --n 100000
    python benchmarks/streaming.py --n 100000 --dimensions 2 --tolerance 1e-4 --json

N points on each side in D dimensions, float64, squared-Euclidean cost divided by its mean, ε in units of that mean:
an even square to eight Gaussians (D = 2), a normal cloud to a mixture (other D). Each case runs in a fresh process.
`products` counts passes over N × N pairs, those over a part of the points by its share; `true_l1` is the larger L1
error of the two marginals, measured again from the potentials by blocks in float64 without the operator; `peak_mb` is
all that the process held up to then, torch and points included; `matrix_mb` is what one float32 matrix would take.
The default takes about a minute on two cores; N = 100,000 several minutes a case.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded: waiting threads must not spin
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from atlas_solvers_builtin.transport.solution import EntropicPlan
from peers.problems import Problem, problem
from table import arguments, report
from torch import Tensor

from atlas_core import build

ROWS = 128
"""Rows of a block of the last measurement."""


def true_error(task: Problem, solution: EntropicPlan) -> float:
    """The larger L1 error of the two marginals: every entry of the plan, in float64, from points and potentials."""
    centre = torch.from_numpy(task.x).mean(0)
    x, y = torch.from_numpy(task.x) - centre, torch.from_numpy(task.y) - centre
    rate = 1 / (task.scale * task.epsilon)
    left, right = (potential / task.epsilon for potential in (solution.f, solution.g))
    left, right = left - rate * x.square().sum(1), right - rate * y.square().sum(1) - math.log(len(x) * len(y))
    columns, error = torch.zeros(len(y), dtype=torch.float64), 0.0
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        entries = (x[rows] @ y.T).mul_(2 * rate).add_(left[rows, None]).add_(right).exp_()
        columns += entries.sum(0)
        error += l1(entries.sum(1), len(x))
    return max(error, l1(columns, len(y)))


def l1(sums: Tensor, points: int) -> float:
    """Distance of sums to the weight of a point."""
    return float((sums - 1 / points).abs().sum())


def measure(name: str, options: Any) -> dict[str, Any]:
    """Solve in this process, which has done nothing before."""
    import resource

    torch.set_num_threads(options.threads)
    task = problem(name, seed=options.seed)
    kernel = {"use": "streaming", "kernel": {"use": "squared-euclidean"}}
    solver = build("solver", "sinkhorn", kernel=kernel, epsilon=task.epsilon, tolerance=options.tolerance)
    x, y = torch.from_numpy(task.x), torch.from_numpy(task.y)
    start, cpu = time.perf_counter(), time.process_time()
    solution = solver.solve(x, y)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "problem": name,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "products": solution.matvecs,
        "iterations": solution.iterations,
        "status": solution.status[0],
        "true_l1": true_error(task, solution),
        "peak_mb": peak,
        "matrix_mb": 4 * len(x) * len(y) / 2**20,
        "value": float(solution.value),
    }


def in_a_fresh_process(name: str, options: Any) -> dict[str, Any]:
    """Return the row of one problem. Raises SystemExit, with what it said, where it fails."""
    settings = ("threads", "seed", "tolerance")
    flags = [part for key in settings for part in (f"--{key}", str(getattr(options, key)))]
    done = subprocess.run(
        [sys.executable, str(Path(__file__)), "--one", name, *flags], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name}: exit code {done.returncode}")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--n", type=int, default=12000, help="points on each side")
    parser.add_argument("--dimensions", default="2,64", help="numbers of coordinates, with commas between")
    parser.add_argument("--epsilon", type=float, default=0.05, help="in units of the mean cost")
    parser.add_argument("--tolerance", type=float, default=1e-6, help="L1 error of the marginals")
    parser.add_argument("--seed", type=int, default=0, help="seed of the points")
    parser.add_argument("--one", help="this problem alone, in this process, as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options)))
        return
    names = [f"d{dimension}-n{options.n}-e{options.epsilon:g}" for dimension in options.dimensions.split(",")]
    rows = [in_a_fresh_process(name, options) for name in names]
    report("streaming", rows, threads=options.threads, as_json=options.json)


if __name__ == "__main__":
    main()
