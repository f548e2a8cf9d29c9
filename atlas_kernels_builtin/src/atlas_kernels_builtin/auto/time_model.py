"""How long parts of an operator take on this machine: a few constants, each measured once a process, when first needed.

What depends on the points (how fast an exact block is) is no constant: `probe` times that on the points themselves.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch

from atlas_kernels_builtin.exact.streaming import stream
from atlas_kernels_builtin.kernels.gaussian import Gaussian

REPEATS = 3
"""The smallest of so many timings counts: whatever else the machine does only adds to it."""


def seconds(run: Callable[[], object], device: torch.device, *, repeats: int = REPEATS) -> float:
    """Return how long `run` takes, until the device has finished: the smallest of `repeats`, after one more if > 1."""
    if repeats > 1:
        run()
    return min(_once(run, device) for _ in range(repeats))


def _once(run: Callable[[], object], device: torch.device) -> float:
    finish(device)
    start = time.perf_counter()
    run()
    finish(device)
    return time.perf_counter() - start


def finish(device: torch.device) -> None:
    """Wait until the device has done all that it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@functools.cache
def multiply_seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of one multiplication and addition in a product of a tall matrix with a square one."""
    rows, rank = 4096, 192
    tall = torch.ones(rows, rank, dtype=dtype, device=device)
    square, out = torch.ones(rank, rank, dtype=dtype, device=device), torch.empty_like(tall)
    return seconds(lambda: torch.mm(tall, square, out=out), device) / (rows * rank * rank)


@functools.cache
def read_seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds for one entry of a matrix that is larger than the caches, in its product with a vector."""
    rows, columns = 8192, 2048
    matrix = torch.ones(rows, columns, dtype=dtype, device=device)
    vector, out = torch.ones(columns, dtype=dtype, device=device), torch.empty(rows, dtype=dtype, device=device)
    return seconds(lambda: torch.mv(matrix, vector, out=out), device) / (rows * columns)


@functools.cache
def write_seconds(device: torch.device) -> float:
    """Seconds for one byte of memory that was not used before: the system has to clear it first."""
    size = 2**25
    return seconds(lambda: torch.ones(size, dtype=torch.uint8, device=device), device) / size


@functools.cache
def eigen_seconds(device: torch.device) -> float:
    """Seconds of the eigenvectors of an r × r matrix in float64, divided by r³."""
    size = 192
    ramp = torch.arange(size, dtype=torch.float64, device=device)
    matrix = (-(ramp[:, None] - ramp).abs() / size).exp()
    return seconds(lambda: torch.linalg.eigh(matrix), device) / size**3


@functools.cache
def call_seconds(device: torch.device) -> float:
    """Seconds of a streamed product that has hardly anything to compute."""
    points = torch.zeros(2, 1, device=device)
    operator = stream(Gaussian(), points, points)
    return seconds(lambda: operator.matvec(points[:, 0]), device)
