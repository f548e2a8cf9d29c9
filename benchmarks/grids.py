"""Entropic transport between images: `sinkhorn-grid` beside the textbook convolutional Sinkhorn loop, in one run.

Squared-Euclidean cost divided by its mean, ε in units of that mean, float64, L1 error of both marginals ≤ 1e-6,
measured again from the returned potentials by plain logsumexp along each axis. The textbook loop (Solomon et al. 2015)
is u = a / K v, v = b / Kᵀ u with one small matrix an axis, two matrix products each in two dimensions, with the number
of threads that suits it best. Where that under- or overflows, the same is run in the log domain, for at most `--cap`
seconds: by logsumexp along each axis, or, where numbers allow, by products of exponentials shifted by their maximum
("shifted"). What has not finished then is given as a lower bound of its time, and of the ratio.
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
    ((32, 32), 0.01, 8.0),
    ((64, 64), 0.01, 8.0),
    ((128, 128), 0.01, 8.0),
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
    if image.ndim == 2:
        return matrices[0] @ image @ matrices[1].T
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


def shifted_along_axes(matrices: list[Tensor], image: Tensor) -> Tensor:
    """log K exp(image) by products; −inf where nothing of a line's largest value reaches a point."""
    for axis, matrix in enumerate(matrices):
        lines = image.movedim(axis, -1)
        top = lines.amax(-1, keepdim=True)
        image = (((lines - top).exp() @ matrix.T).log() + top).movedim(-1, axis)
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


def log_textbook(product: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, cap: float) -> tuple[int | None, bool]:
    """Iterations of the loop in the log domain, None if numbers ran out of range; True: it arrived within `cap` s."""
    log_a, log_b = a.log(), b.log()
    log_u = torch.zeros_like(log_a)
    log_v, done, began = log_u, 0, time.perf_counter()
    while time.perf_counter() - began < cap:
        seen = product(log_u)
        if done and done % CHECK_EVERY == 0:
            error = float(((log_v + seen).exp() - b).abs().sum())
            if not math.isfinite(error):
                return None, False
            if error <= TOLERANCE:
                return done, True
        log_v = log_b - seen
        log_u = log_a - product(log_v)
        done += 1
    return done, False


def true_error(a: Tensor, b: Tensor, costs: list[Tensor], epsilon: float, f: Tensor, g: Tensor) -> float:
    logs = [-cost / epsilon for cost in costs]
    left, right = a.log() + f.view_as(a) / epsilon, b.log() + g.view_as(b) / epsilon
    rows, columns = (left + log_along_axes(logs, right)).exp(), (right + log_along_axes(logs, left)).exp()
    return float(torch.maximum((rows - a).abs().sum(), (columns - b).abs().sum()))


def measure(shape: tuple[int, ...], epsilon: float, target: float, options: Any) -> dict[str, Any]:
    a, b = images(shape)
    costs = axis_costs(shape)
    solver = build("solver", "sinkhorn-grid", kernel=grid_of(shape), epsilon=epsilon, tolerance=TOLERANCE)
    plan = solver.solve_images(a, b)  # warm up
    runs, theirs = [], math.inf
    for threads in sorted({1, options.threads}):
        torch.set_num_threads(options.threads)
        for _ in range(options.repeats):
            runs.append(seconds_of(lambda: solver.solve_images(a, b))[0])
        torch.set_num_threads(threads)
        seconds, iterations = seconds_of(lambda: textbook(a, b, costs, epsilon))
        theirs = min(theirs, seconds)
        if iterations is None:
            break
    torch.set_num_threads(options.threads)
    form, arrived = "exp", True
    if iterations is None:
        form, theirs, iterations, arrived = in_log_domain(a, b, costs, epsilon, options.cap)
    ours = statistics.median(runs)
    return {
        "grid": "×".join(map(str, shape)),
        "epsilon": epsilon,
        "seconds": ours,
        "products": plan.matvecs,
        "true L1": true_error(a, b, costs, epsilon, plan.f, plan.g),
        "textbook": theirs,
        "iterations": iterations,
        "form": form,
        "arrived": "yes" if arrived else "no",
        "ratio": theirs / ours,
        "target": target,
    }


def seconds_of(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def in_log_domain(
    a: Tensor, b: Tensor, costs: list[Tensor], epsilon: float, cap: float
) -> tuple[str, float, int | None, bool]:
    """The form that was run, its seconds, its iterations, and whether it arrived: the faster form if it can."""
    logs = [-cost / epsilon for cost in costs]
    kernels = [log.exp() for log in logs]
    seconds, (iterations, arrived) = seconds_of(
        lambda: log_textbook(lambda image: shifted_along_axes(kernels, image), a, b, cap)
    )
    if iterations is not None:
        return "shifted", seconds, iterations, arrived
    seconds, (iterations, arrived) = seconds_of(
        lambda: log_textbook(lambda image: log_along_axes(logs, image), a, b, cap)
    )
    return "log", seconds, iterations, arrived


def grid_of(shape: tuple[int, ...]) -> Any:
    """The kernel whose cost is that of `axis_costs`."""
    # Two independent uniform points of s cells: the mean of their squared distance is (1 − 1/s²) / 6 an axis.
    mean = sum((1 - 1 / size**2) / 6 for size in shape)
    return build("kernel", "grid", shape=shape, kernel=build("kernel", "squared-euclidean", scale=mean))


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--repeats", type=int, default=5, help="runs of ours, twice, of which the median counts")
    parser.add_argument("--cap", type=float, default=60.0, help="seconds after which the log-domain loop is stopped")
    parser.add_argument("--only", default="", help="only problems whose name contains this, as in 64×64 ε=0.001")
    options = parser.parse_args()
    rows = [
        measure(shape, epsilon, target, options)
        for shape, epsilon, target in PROBLEMS
        if options.only in f"{'×'.join(map(str, shape))} ε={epsilon}"
    ]
    report("grids", rows, threads=options.threads, as_json=options.json)


if __name__ == "__main__":
    main()
