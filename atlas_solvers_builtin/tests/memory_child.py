"""Solve one problem in a process of its own; print what memory that took, in float32 matrices of its size, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import atlas_core


def memory(what: str) -> int:
    """Bytes of this process in memory: `VmRSS`, now, or `VmHWM`, the most so far (that of `resource` would include what
    the parent process had)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))


def main(dimension: int, epsilon: float, dtype: str, offset: float, n: int, block_bytes: int) -> None:
    """Of n × n points; streamed in blocks of that many bytes, or stored if 0."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.empty(n, dimension, dtype=getattr(torch, dtype)).normal_(generator=generator) for _ in range(2))
    x, y = x.add_(offset), y.mul_(0.5).add_(offset)
    kernel = {"use": "squared-euclidean", "scale": "mean"}
    if block_bytes:
        kernel = {"use": "streaming", "kernel": kernel, "block_bytes": block_bytes}
    solver = atlas_core.build("solver", "sinkhorn", kernel=kernel, epsilon=epsilon, tolerance=1e-4)
    solver.solve(x[:300].clone(), y[:300].clone())  # what is loaded at first use is no memory of the solve
    before = memory("VmRSS")
    solution = solver.solve(x, y)
    store = getattr(solution.problem.operator, "store", None)
    stored = "nothing" if store is None else type(store.stored.matrix).__name__
    extra = (memory("VmHWM") - before) / (4 * n * n)
    sys.stdout.write(json.dumps({"extra": extra, "stored": stored, "status": solution.status[0]}))


main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], float(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6]))
