"""Entropic transport between images: `sinkhorn-grid` beside the textbook convolutional Sinkhorn loop, in one run.

Squared-Euclidean cost divided by its mean, ε in units of that mean, float64, L1 error of both marginals ≤ 1e-6,
measured again from the returned potentials by plain logsumexp along each axis. The textbook loop (Solomon et al. 2015)
is u = a / K v, v = b / Kᵀ u with one small matrix an axis. Where that under- or overflows, its stabilised form is run:
the same in the log domain, by logsumexp along each axis. That form takes hours on the larger grids, so its iterations
are counted once, on 64², with our products (the iterates are the same, and their number hardly depends on the
resolution), and a few of them are timed on every grid: "log, estimated".
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from table import arguments, report
from torch import Tensor

from atlas_core import build

TOLERANCE = 1e-6
PROBLEMS = [
    ((64, 64), 0.01, 8.0),
    ((256, 256), 0.01, 8.0),
    ((512, 512), 0.01, 8.0),
    ((64, 64, 64), 0.01, 4.0),
    ((64, 64), 0.001, 8.0),
    ((256, 256), 0.001, 8.0),
    ((512, 512), 0.001, 8.0),
]
CHECK_EVERY = 10


def images(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Four bells and six, on a dim background, of mass 1."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[(np.arange(size) + 0.5) / size for size in shape], indexing="ij")

    def bells(count: int) -> Tensor:
        image = np.full(shape, 1e-3)
        for _ in range(count):
            centre, width = rng.uniform(0.15, 0.85, len(shape)), rng.uniform(0.03, 0.12)
            distance = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))
            image = image + rng.uniform(0.5, 1) * np.exp(-distance / (2 * width**2))
        return torch.from_numpy(image / image.sum())

    return bells(4), bells(6)


def axis_costs(shape: tuple[int, ...]) -> list[Tensor]:
    """The cost of each axis, in units of the mean cost of two uniform images."""
    places = [(torch.arange(size, dtype=torch.float64) + 0.5) / size for size in shape]
    squared = [(place[:, None] - place).square() for place in places]
    mean = sum(float(cost.mean()) for cost in squared)
    return [cost / mean for cost in squared]


def along_axes(matrices: list[Tensor], image: Tensor) -> Tensor:
    for axis, matrix in enumerate(matrices):
        image = torch.tensordot(matrix, image, dims=([1], [axis])).movedim(0, axis)
    return image


def log_along_axes(logs: list[Tensor], image: Tensor) -> Tensor:
    """log K exp(image), line by line, so that the temporaries stay small."""
    for axis, log in enumerate(logs):
        lines = image.movedim(axis, -1)
        summed = torch.stack([(part[..., None, :] + log).logsumexp(-1) for part in lines])
        image = summed.movedim(-1, axis)
    return image


def textbook(a: Tensor, b: Tensor, costs: list[Tensor], epsilon: float) -> int | None:
    """Iterations that it took; None if numbers ran out of range."""
    kernels = [(-cost / epsilon).exp() for cost in costs]
    u = torch.ones_like(a)
    v, done = u, 0
    while True:
        seen = along_axes(kernels, u)
        if done and done % CHECK_EVERY == 0:
            error = float((v * seen - b).abs().sum())
            if not math.isfinite(error):
                return None
            if error <= TOLERANCE:
                return done
        v = b / seen
        u = a / along_axes(kernels, v)
        done += 1


def log_iterations(product: Callable[[Tensor], Tensor], log_a: Tensor, log_b: Tensor, limit: int) -> int:
    """Iterations of the loop in the log domain until it converges, or `limit`."""
    log_u = torch.zeros_like(log_a)
    log_v = log_u
    for done in range(limit):
        seen = product(log_u)
        if done and done % CHECK_EVERY == 0 and float(((log_v + seen).exp() - log_b.exp()).abs().sum()) <= TOLERANCE:
            return done
        log_v = log_b - seen
        log_u = log_a - product(log_v)
    return limit


def true_error(a: Tensor, b: Tensor, costs: list[Tensor], epsilon: float, f: Tensor, g: Tensor) -> float:
    logs = [-cost / epsilon for cost in costs]
    left, right = a.log() + f.view_as(a) / epsilon, b.log() + g.view_as(b) / epsilon
    rows, columns = (left + log_along_axes(logs, right)).exp(), (right + log_along_axes(logs, left)).exp()
    return float(torch.maximum((rows - a).abs().sum(), (columns - b).abs().sum()))


def measure(
    shape: tuple[int, ...], epsilon: float, target: float, options: Any, counted: dict[float, int]
) -> dict[str, Any]:
    a, b = images(shape)
    costs = axis_costs(shape)
    solver = build("solver", "sinkhorn-grid", kernel=grid_of(shape), epsilon=epsilon, tolerance=TOLERANCE)
    solver.solve_images(a, b)  # warm up
    runs = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        plan = solver.solve_images(a, b)
        runs.append(time.perf_counter() - start)
    ours = statistics.median(runs)
    start = time.perf_counter()
    iterations = textbook(a, b, costs, epsilon)
    theirs, how = time.perf_counter() - start, "exp"
    if iterations is None:
        iterations, theirs = stabilised(a, b, costs, epsilon, options, counted)
        how = "log, estimated"
    return {
        "grid": "×".join(map(str, shape)),
        "epsilon": epsilon,
        "seconds": ours,
        "products": plan.matvecs,
        "true L1": true_error(a, b, costs, epsilon, plan.f, plan.g),
        "textbook": theirs,
        "iterations": iterations,
        "form": how,
        "ratio": theirs / ours,
        "target": target,
    }


def stabilised(
    a: Tensor, b: Tensor, costs: list[Tensor], epsilon: float, options: Any, counted: dict[float, int]
) -> tuple[int, float]:
    """Iterations of the log-domain loop, and the seconds that they take, from a few of them."""
    if epsilon not in counted:
        counted[epsilon] = count((64,) * a.ndim, epsilon, options.most)
    logs = [-cost / epsilon for cost in costs]
    start = time.perf_counter()
    log_iterations(lambda image: log_along_axes(logs, image), a.log(), b.log(), options.timed)
    return counted[epsilon], counted[epsilon] * (time.perf_counter() - start) / options.timed


def count(shape: tuple[int, ...], epsilon: float, most: int) -> int:
    """Iterations of the log-domain loop on a small grid, by our products."""
    a, b = images(shape)
    operator = grid_of(shape).operator(epsilon=epsilon)
    return log_iterations(lambda image: operator.log_matvec(image.flatten()).view_as(image), a.log(), b.log(), most)


def grid_of(shape: tuple[int, ...]) -> Any:
    """The kernel whose cost is that of `axis_costs`."""
    # Two independent uniform points of s cells: the mean of their squared distance is (1 − 1/s²) / 6 an axis.
    mean = sum((1 - 1 / size**2) / 6 for size in shape)
    return build("kernel", "grid", shape=shape, kernel=build("kernel", "squared-euclidean", scale=mean))


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--repeats", type=int, default=3, help="runs of ours, of which the median counts")
    parser.add_argument("--timed", type=int, default=3, help="iterations of the log-domain loop that are timed")
    parser.add_argument("--most", type=int, default=20_000, help="iterations of it at which counting stops")
    parser.add_argument("--only", default="", help="only grids whose name contains this, as in 64×64×64")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    counted: dict[float, int] = {}
    rows = [
        measure(shape, epsilon, target, options, counted)
        for shape, epsilon, target in PROBLEMS
        if options.only in "×".join(map(str, shape))
    ]
    report("grids", rows, threads=options.threads, as_json=options.json)


if __name__ == "__main__":
    main()
