"""One exact product K @ v of a Gaussian kernel beside KeOps, and beside what the machine allows.

    python benchmarks/matvec.py
    python roofline.py > roofline.txt; python benchmarks/matvec.py --roofline roofline.txt --json

N points on each side in D dimensions, float32, cost of mean 1. `error` is the relative l2 error on 64 rows against
float64. A fused pass, which keeps every entry in a register, takes at least 2 D flops at the speed of a large matrix
product and one exp2 an entry: `of_limit` is that time over ours. `ratio` is the time of KeOps over ours. The two
speeds are measured here, unless `--roofline` names a file with the lines `torch.float32 GEMM GFLOP/s …` and
`torch.float32 exp2 cache-resident Gelem/s …`. KeOps: `python -m pip install -r requirements-bench.txt`; its
compilation is not counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded: waiting threads must not spin
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from atlas_kernels_builtin.exact.streaming import stream
from table import arguments, report
from torch import Tensor

from atlas_kernels_builtin import Gaussian

ROWS = 64


def seconds(function: Callable[[], Any], reps: int) -> float:
    """The best of some, the first apart: noise only ever adds."""
    function()
    found = []
    for _ in range(reps):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return min(found)


def keops(x: Tensor, y: Tensor, v: Tensor, rate: float) -> Callable[[], Tensor]:
    """The same product as KeOps advises to write it. Raises ImportError where it is not installed."""
    from pykeops.torch import LazyTensor

    squared = ((LazyTensor(x[:, None]) - LazyTensor(y[None])) ** 2).sum(-1)
    kernel = (-rate * squared).exp()
    return lambda: (kernel @ v[:, None])[:, 0]


def error(product: Tensor, x: Tensor, y: Tensor, v: Tensor, rate: float) -> float:
    """Relative l2 error on some rows, against float64 with coordinates subtracted."""
    index = torch.linspace(0, len(x) - 1, ROWS).long()
    squared = torch.cdist(x[index].double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    exact = (-rate * squared).exp() @ v.double()
    return float((product[index].double() - exact).norm() / exact.norm())


def speeds(path: Path | None) -> tuple[float, float]:
    """Flops of a large float32 product, and exp2 of float32 in the cache, both a second."""
    if path is not None:
        lines = path.read_text(encoding="utf-8").splitlines()
        gemm, exp2 = (
            next((float(line.split()[-1]) for line in lines if line.startswith(f"torch.float32 {name}")), None)
            for name in ("GEMM GFLOP/s", "exp2 cache-resident Gelem/s")
        )
        if gemm is None or exp2 is None:
            raise SystemExit(f"{path} holds no line `torch.float32 GEMM GFLOP/s …` or none of exp2")
        return gemm * 1e9, exp2 * 1e9
    a, b, out = torch.randn(2048, 2048), torch.randn(2048, 2048), torch.empty(2048, 2048)
    gemm = 2 * 2048**3 / seconds(lambda: torch.mm(a, b, out=out), 5)
    entries, result = torch.randn(262144), torch.empty(262144)
    exp2 = 262144 * 100 / seconds(lambda: [torch.exp2(entries, out=result) for _ in range(100)], 5)
    return gemm, exp2


def measure(size: int, dimension: int, limits: tuple[float, float], reps: int) -> dict[str, Any]:
    """One row of the table."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(size, dimension, generator=generator) for _ in range(2))
    v = torch.randn(size, generator=generator)
    bandwidth, rate = dimension**0.5, 0.5 / dimension
    operator = stream(Gaussian(bandwidth), x, y)
    ours = seconds(lambda: operator.matvec(v), reps)
    limit = size * size * (2 * dimension / limits[0] + 1 / limits[1])
    row = {
        "D": dimension,
        "seconds": ours,
        "Gpair/s": size * size / ours / 1e9,
        "error": error(operator.matvec(v), x, y, v, rate),
        "of_limit": limit / ours,
    }
    try:
        small = slice(0, 256)
        keops(x[small], y[small], v[small], rate)()  # compiles, once for each D
        peer = keops(x, y, v, rate)
    except ImportError:
        return {**row, "keops": None, "keops_error": None, "ratio": None, "note": "KeOps is not installed"}
    theirs = seconds(peer, 2)
    return {**row, "keops": theirs, "keops_error": error(peer(), x, y, v, rate), "ratio": theirs / ours, "note": ""}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--size", type=int, default=20000, help="points on each side")
    parser.add_argument("--dimensions", default="2,16,64", help="numbers of coordinates, with commas between")
    parser.add_argument("--reps", type=int, default=5, help="repetitions, of which the best counts")
    parser.add_argument("--roofline", type=Path, help="a file with the speeds of this machine")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    limits = speeds(options.roofline)
    rows = [measure(options.size, int(d), limits, options.reps) for d in options.dimensions.split(",")]
    report("matvec", rows, threads=options.threads, as_json=options.json)


if __name__ == "__main__":
    main()
