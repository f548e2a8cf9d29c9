"""Does `auto` take the right operator? Random problems, beside every choice it has, and beside always being exact.

    python benchmarks/auto.py                              20 problems of up to 20,000 points: about a minute
    python benchmarks/auto.py --problems 100 --max-n 200000 --seed 7 --resume auto.jsonl --limit 280

Points normal, uniform or in clusters, y = x or not; n log-uniform, D in {1, 2, 8, 32, 128}; Gaussian, Laplacian,
Matérn 3/2 and Cauchy kernels, 0.1 to 10 × the median distance wide; tolerance 1e-1 to 1e-4.

What is timed: choosing, building and `--matvecs` products with one vector each, which is what `auto` is told it is for
(its field of that name). `error` is the relative l2 error of 16 products on 256 rows against float64, distances by
subtraction. `best` is the fastest of `dense`, `streaming`, `nystroem` (8, 16, 32, … landmarks), `rff` (64, 256, …
features) and what `auto` took, without the choosing, that meets the tolerance: known only afterwards.

What is not measured in full: an exact product is timed on so many rows as take a fraction of a second, and scaled to
all of them. A family ends where it meets the tolerance, takes longer than the best so far, or would take longer even if
its error fell from here on 2 × (`rff`: 1.2 ×) as fast as between the last two sizes and its time grew as its size; it
is cut off where the next size would take more than what is left of `--patience` seconds, and `cut` names it then: the
fastest may be one that was not tried.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded: waiting threads must not spin
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import attrs
import torch
from atlas_kernels_builtin.approximate.low_rank import LowRankOperator
from atlas_kernels_builtin.approximate.nystroem import Nystroem
from atlas_kernels_builtin.approximate.rff import Rff
from atlas_kernels_builtin.auto.auto import Auto, AutoOperator
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
PAIRS = 2**25
"""Of an exact product that stand for all of them."""
FASTER = {"nystroem": 2.0, "rff": 1.2}
"""Than between the last two sizes, that the error might fall from then on; of features it falls as 1/√features."""


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


@attrs.frozen
class Truth:
    """Some rows of a product, in float64."""

    vectors: Tensor
    """(m, VECTORS), float32."""
    rows: Tensor
    """Indices, (ROWS,)."""
    exact: Tensor
    """(ROWS, VECTORS)."""

    @classmethod
    def of(cls, problem: Case, seed: int) -> Truth:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(problem.x), generator=generator)[:ROWS]
        vectors = torch.randn(len(problem.y), VECTORS, generator=generator)
        wide, x = problem.y.double(), problem.x[rows].double()
        step = max(1, 2**22 // len(wide))
        exact = [problem.kernel.log_kernel(part, wide).exp() @ vectors.double() for part in x.split(step)]
        return cls(vectors, rows, torch.cat(exact))

    def error(self, got: Tensor) -> float:
        """Relative l2 error of the rows of a product."""
        return float((got.double() - self.exact).norm() / self.exact.norm())


def clock(run: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and its seconds."""
    start = time.perf_counter()
    made = run()
    return made, time.perf_counter() - start


def seconds_of(make: Callable[[], Any], v: Tensor, matvecs: int) -> tuple[Any, float]:
    """The operator, and the seconds of building it and so many products, of which two are run."""
    operator, building = clock(make)
    first = clock(lambda: operator.matvec(v))[1]
    again = clock(lambda: operator.matvec(v))[1] if matvecs > 1 else 0.0
    return operator, building + first + (matvecs - 1) * again


def exact_seconds(problem: Case, make: Callable[..., Any], v: Tensor, matvecs: int) -> float:
    """Of an exact operator: on some of the rows, and scaled, where all of them are more than `PAIRS` pairs."""
    rows = min(len(problem.x), max(64, PAIRS // len(problem.y)))
    _, took = seconds_of(lambda: make(problem.kernel, problem.x[:rows], problem.y), v, matvecs)
    return took * len(problem.x) / rows


def families(problem: Case) -> Iterator[tuple[str, list[tuple[int, Any]]]]:
    """The approximations of each, from cheap to dear, as far as memory allows."""
    points = len(problem.x) + len(problem.y)
    most = min(len(problem.x), SHARE_OF_MEMORY * free_memory(problem.x.device) / (4 * points))
    sizes = [2**k for k in range(3, 13) if 2**k <= most]
    accuracy = 0.03 * problem.tolerance
    yield "nystroem", [(size, Nystroem(kernel=problem.kernel, landmarks=size, accuracy=accuracy)) for size in sizes]
    sizes = [4**k for k in range(3, 8) if 4**k <= most]
    yield "rff", [(size, Rff(kernel=problem.kernel, features=size)) for size in sizes]


def least_times(errors: list[float], growth: float, faster: float, tolerance: float) -> float:
    """How many times longer the size would take, at least, at which the family meets the tolerance."""
    if len(errors) < 2:
        return growth
    fall = max(faster * math.log(errors[-2] / errors[-1]), 1e-3)
    return float(growth ** min(60.0, math.ceil(math.log(errors[-1] / tolerance) / fall)))


def fastest(
    problem: Case, truth: Truth, matvecs: int, best: str, limit: float, patience: float
) -> tuple[str, float, list[str]]:
    """The best choice that meets the tolerance, given one that does; its seconds; and what was cut off."""
    v, cut = truth.vectors[:, 0], []
    for name, family in families(problem):
        errors: list[float] = []
        spent = previous = took = 0.0
        for size, kernel in family:
            if spent + took * (max(2.0, took / previous) if previous else 2.0) > patience / 2:
                cut.append(f"{name}({size})")
                break
            previous = took
            operator, took = seconds_of(lambda kernel=kernel: kernel.operator(problem.x, problem.y), v, matvecs)
            spent += took
            if took > limit:
                break
            errors.append(truth.error(operator.matvec(truth.vectors)[truth.rows]))
            if errors[-1] <= problem.tolerance:
                best, limit = f"{name}({size})", took
                break
            growth = family[1][0] / family[0][0]
            if took * least_times(errors, growth, FASTER[name], problem.tolerance) > limit:
                break
    return best, limit, cut


def row(seed: int, max_n: int, matvecs: int, patience: float) -> dict[str, Any]:
    """One problem."""
    start = time.perf_counter()
    problem = case(seed, max_n)
    truth = Truth.of(problem, seed)
    v = truth.vectors[:, 0]
    exact = {"streaming": exact_seconds(problem, stream, v, matvecs)}
    if len(problem.x) * len(problem.y) * 4 < SHARE_OF_MEMORY * free_memory(v.device):
        exact["dense"] = exact_seconds(problem, dense_operator, v, matvecs)
    auto = Auto(kernel=problem.kernel, tolerance=problem.tolerance, matvecs=matvecs)
    operator: AutoOperator = auto.operator(problem.x, problem.y)
    best, least = min(exact.items(), key=lambda item: item[1])
    if isinstance(operator.inner, LowRankOperator):
        products = sum(clock(lambda: operator.matvec(v))[1] for _ in range(matvecs))
        found = truth.error(operator.matvec(truth.vectors)[truth.rows])
        again = operator.building_seconds + products
        if found <= problem.tolerance and again < least:
            best, least = str(operator.choice), again
    else:
        products = exact[operator.choice.name]
        found = truth.error(stream(problem.kernel, problem.x[truth.rows], problem.y).matvec(truth.vectors))
    best, least, cut = fastest(problem, truth, matvecs, best, least, patience)
    return {
        "seed": seed,
        "n": len(problem.x),
        "D": problem.x.shape[1],
        "kernel": type(problem.kernel).__name__,
        "width": round(problem.width, 2),
        "tolerance": problem.tolerance,
        "took": str(operator.choice),
        "error": found,
        "met": found <= problem.tolerance,
        "seconds": operator.seconds + products,
        "choosing": operator.seconds - operator.building_seconds,
        "predicted": operator.choice.seconds,
        "best": best,
        "best_seconds": least,
        "ratio": (operator.seconds + products) / least,
        "cut": " ".join(cut),
        "exact_seconds": min(exact.values()),
        "wall": time.perf_counter() - start,
        "reason": operator.reason,
    }


def measure(options: Any) -> list[dict[str, Any]]:
    """A row of each problem, from the file or anew, until the time is over."""
    kept = Path(options.resume) if options.resume else None
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept and kept.exists() else []
    done = {one["seed"] for one in rows}
    start = time.perf_counter()
    for seed in range(options.seed, options.seed + options.problems):
        if seed in done:
            continue
        if options.limit and time.perf_counter() - start > options.limit:
            break
        rows.append(row(seed, options.max_n, options.matvecs, options.patience))
        if kept:
            with kept.open("a") as lines:
                lines.write(json.dumps(rows[-1]) + "\n")
    return rows


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--max-n", type=int, default=20_000, help="most points")
    parser.add_argument("--matvecs", type=int, default=10, help="products that each operator is used for")
    parser.add_argument("--seed", type=int, default=1000, help="of the first problem; the next ones count on")
    parser.add_argument("--resume", help="JSON lines: problems that are in it are not run again, others are added")
    parser.add_argument("--patience", type=float, default=12.0, help="seconds for the approximations of a problem")
    parser.add_argument("--limit", type=float, default=0.0, help="seconds after which no problem is begun")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # The machine's constants, measured once a process.
    Auto(kernel=Gaussian(), matvecs=1000).operator(torch.randn(2000, 2), torch.randn(2000, 2))
    rows = measure(options)
    report(
        "auto", rows if options.json else [_short(one) for one in rows], threads=options.threads, as_json=options.json
    )
    if not options.json:
        print(f"\n{summary(rows)}")
    return 0


def _short(one: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key not in ("reason", "wall")}


def summary(rows: list[dict[str, Any]]) -> str:
    """Totals, in a sentence."""
    sums = {name: sum(r[name] for r in rows) for name in ("seconds", "best_seconds", "exact_seconds", "wall")}
    return (
        f"error met in {sum(r['met'] for r in rows)} of {len(rows)}; within 2 × of the fastest in "
        f"{sum(r['ratio'] <= 2 for r in rows)}; in all {sums['seconds']:.3g} s, the fastest choices "
        f"{sums['best_seconds']:.3g} s (ratio {sums['seconds'] / sums['best_seconds']:.2f}), always exact "
        f"{sums['exact_seconds']:.3g} s; measuring took {sums['wall']:.3g} s"
    )


if __name__ == "__main__":
    sys.exit(main())
