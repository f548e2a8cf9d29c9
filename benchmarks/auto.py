"""Does `auto` take the right operator? Random problems, beside every choice it has, and beside always being exact.

    python benchmarks/auto.py                              20 problems of up to 20,000 points: about three minutes
    python benchmarks/auto.py --problems 100 --max-n 200000 --seed 7 --json

Points normal, uniform or in clusters, y = x or not; n log-uniform, D in {1, 2, 8, 32, 128}; Gaussian, Laplacian,
Matérn 3/2 and Cauchy kernels, 0.1 to 10 × the median distance wide; tolerance 1e-1 to 1e-4. Seconds: choosing, building
and `--matvecs` products. `error` is the relative l2 error of 16 products on 256 rows of float64. `best`: the fastest of
`dense`, `streaming`, `nystroem` (8, 16, 32, … landmarks) and `rff` (64, 256, … features) that meets the tolerance,
known only afterwards. Exact operators whose products would take long are timed on a part of the rows, and scaled.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded: waiting threads must not spin
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import attrs
import torch
from atlas_kernels_builtin.approximate.nystroem import Nystroem
from atlas_kernels_builtin.approximate.rff import Rff
from atlas_kernels_builtin.auto.auto import Auto
from atlas_kernels_builtin.exact.dense import dense_operator
from atlas_kernels_builtin.exact.exact_operator import SHARE_OF_MEMORY, free_memory
from atlas_kernels_builtin.exact.streaming import stream
from atlas_kernels_builtin.kernels.cauchy import Cauchy
from atlas_kernels_builtin.kernels.laplacian import Laplacian
from atlas_kernels_builtin.kernels.matern import Matern
from table import arguments, report
from torch import Tensor

from atlas_kernels_builtin import Gaussian

ROWS = 256
VECTORS = 16
"""A product with one alone may happen to be small, where the kernel is nearly constant: no measure of anything."""
LONG = 1.0
"""Seconds of an exact product beyond which a part of the rows stands for all."""


@attrs.frozen
class Case:
    """One random problem."""

    x: Tensor
    y: Tensor
    kernel: Any
    width: float
    tolerance: float


def case(seed: int, max_n: int) -> Case:
    """Draw one."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(7, generator=generator, dtype=torch.float64).tolist()
    n, d = int(1000 * (max_n / 1000) ** draw[0]), (1, 2, 8, 32, 128)[int(5 * draw[1])]
    width, tolerance = 10 ** (2 * draw[2] - 1), 10 ** (-1 - 3 * draw[3])
    sides = []
    centres = 3 * torch.randn(10, d, generator=generator)
    for _ in range(1 if draw[5] < 0.5 else 2):
        points = torch.randn(n, d, generator=generator)
        if draw[4] < 1 / 3:
            points = torch.rand(n, d, generator=generator)
        elif draw[4] < 2 / 3:
            points = points + centres[torch.randint(10, (n,), generator=generator)]
        sides.append(points)
    scale = width * float(torch.pdist(sides[0][:1000]).median())
    kernels = (Gaussian(scale), Laplacian(scale), Matern(nu=1.5, scale=scale), Cauchy(scale))
    return Case(sides[0], sides[-1], kernels[int(4 * draw[6])], width, tolerance)


def error(operator: Any, problem: Case, v: Tensor) -> float:
    """Relative l2 error of a product on some rows, against float64 with coordinates subtracted; None: exact ones."""
    rows = torch.randperm(len(problem.x), generator=torch.Generator().manual_seed(99))[:ROWS]
    x, y = problem.x[rows], problem.y
    got = stream(problem.kernel, x, y).matvec(v) if operator is None else operator.matvec(v)[rows]
    wide = y.double()
    parts = [problem.kernel.log_kernel(part.double(), wide).exp() @ v.double() for part in x.split(16)]
    exact = torch.cat(parts)
    return float((got.double() - exact).norm() / exact.norm())


def exact_seconds(problem: Case, name: str, v: Tensor, matvecs: int) -> float:
    """Of building and so many products; of a part of the rows, and scaled, where that would take long."""
    make = stream if name == "streaming" else dense_operator
    rows = min(len(problem.x), 2048)
    start = time.perf_counter()
    make(problem.kernel, problem.x[:rows], problem.y).matvec(v[:, 0])
    part = time.perf_counter() - start
    scaled = part * len(problem.x) / rows > LONG
    operator = make(problem.kernel, problem.x[:rows] if scaled else problem.x, problem.y)
    factor = len(problem.x) / rows if scaled else 1.0
    start = time.perf_counter()
    operator.matvec(v[:, 0])
    first = time.perf_counter() - start
    start = time.perf_counter()
    operator.matvec(v[:, 0])
    return factor * (first + (matvecs - 1) * (time.perf_counter() - start))


def approximations(problem: Case) -> Iterator[tuple[str, list[Any]]]:
    """Those of each family, from cheap to dear."""
    yield "nystroem", [Nystroem(kernel=problem.kernel, landmarks=2**k) for k in range(3, 13)]
    yield "rff", [Rff(kernel=problem.kernel, features=4**k) for k in range(3, 8)]


def fastest(problem: Case, v: Tensor, matvecs: int, exact: dict[str, float]) -> tuple[str, float]:
    """The best that meets the tolerance, and its seconds."""
    best, limit = min(exact.items(), key=lambda item: item[1])
    for name, family in approximations(problem):
        for size, kernel in enumerate(family):
            start = time.perf_counter()
            operator = kernel.operator(problem.x, problem.y)
            operator.matvec(v[:, 0])
            once = time.perf_counter() - start
            start = time.perf_counter()
            operator.matvec(v[:, 0])
            took = once + (matvecs - 1) * (time.perf_counter() - start)
            if took > limit:
                break
            if error(operator, problem, v) <= problem.tolerance:
                best, limit = f"{name}({getattr(family[size], 'landmarks', None) or kernel.features})", took
                break
    return best, limit


def row(seed: int, max_n: int, matvecs: int) -> dict[str, Any]:
    """One problem."""
    problem = case(seed, max_n)
    v = torch.randn(len(problem.y), VECTORS, generator=torch.Generator().manual_seed(seed))
    auto = Auto(kernel=problem.kernel, tolerance=problem.tolerance, matvecs=matvecs)
    exact = {"streaming": exact_seconds(problem, "streaming", v, matvecs)}
    if len(problem.x) * len(problem.y) * 4 < SHARE_OF_MEMORY * free_memory(v.device):
        exact["dense"] = exact_seconds(problem, "dense", v, matvecs)
    operator = auto.operator(problem.x, problem.y)
    seconds = choosing = operator.seconds
    if operator.choice.name in exact:
        seconds += exact[operator.choice.name]
        found = error(None, problem, v)
    else:
        start = time.perf_counter()
        for _ in range(matvecs):
            operator.matvec(v[:, 0])
        seconds += time.perf_counter() - start
        found = error(operator, problem, v)
    best, least = fastest(problem, v, matvecs, exact)
    return {
        "n": len(problem.x),
        "D": problem.x.shape[1],
        "kernel": type(problem.kernel).__name__,
        "width": round(problem.width, 2),
        "tolerance": problem.tolerance,
        "took": str(operator.choice),
        "error": found,
        "met": found <= problem.tolerance,
        "seconds": seconds,
        "choosing": choosing,
        "best": best,
        "best_seconds": least,
        "ratio": seconds / least,
        "exact_seconds": min(exact.values()),
    }


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--max-n", type=int, default=20_000, help="most points")
    parser.add_argument("--matvecs", type=int, default=10, help="products that each operator is used for")
    parser.add_argument("--seed", type=int, default=1000, help="of the first problem; the next ones count on")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    Auto(kernel=Gaussian(), matvecs=1000).operator(
        torch.randn(2000, 2), torch.randn(2000, 2)
    )  # the machine's constants
    rows = [row(options.seed + i, options.max_n, options.matvecs) for i in range(options.problems)]
    report("auto", rows, threads=options.threads, as_json=options.json)
    if not options.json:
        sums = {name: sum(r[name] for r in rows) for name in ("seconds", "best_seconds", "exact_seconds")}
        within = sum(r["ratio"] <= 2 for r in rows)
        print(
            f"\nerror met in {sum(r['met'] for r in rows)} of {len(rows)}; within 2 × of the fastest in {within};"
            f" in all {sums['seconds']:.3g} s, the fastest choices {sums['best_seconds']:.3g} s "
            f"(ratio {sums['seconds'] / sums['best_seconds']:.2f}), always exact {sums['exact_seconds']:.3g} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
