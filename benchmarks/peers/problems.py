"""Transport problems between point clouds, and the true error of an answer to one, measured in float64."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import attrs
import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]


@attrs.frozen(eq=False)
class Problem:
    """Couple two uniform clouds under |x − y|² / scale, scale its mean, with ε in units of that mean."""

    name: str
    x: Array
    y: Array
    epsilon: float
    tolerance: float

    @property
    def scale(self) -> float:
        squares = (self.x**2).sum(1).mean() + (self.y**2).sum(1).mean()
        return float(squares - 2 * self.x.mean(0) @ self.y.mean(0))

    @property
    def weights(self) -> tuple[Array, Array]:
        return tuple(np.full(len(z), 1 / len(z)) for z in (self.x, self.y))  # type: ignore[return-value]


@attrs.frozen(eq=False)
class Answer:
    """Potentials, in units of the scaled cost, of a plan P_ij = a_i b_j exp((f_i + g_j − C_ij) / ε)."""

    f: Array
    g: Array
    iterations: int
    note: str = ""


def problem(name: str, *, seed: int = 0, tolerance: float = 1e-6) -> Problem:
    """`d16-n4000-e0.01`: dimension, points on each side, ε; with a family in front, `rings-d2-n4000-e0.01`."""
    match = re.fullmatch(r"(?:(\w+)-)?d(\d+)-n(\d+)-e([\d.e-]+)", name)
    if match is None:
        raise ValueError(f"a problem is named like d16-n4000-e0.01 or mixture-d16-n4000-e0.01, not {name!r}")
    dimension, points = int(match[2]), int(match[3])
    family = match[1] or {2: "ring", 784: "digits"}.get(dimension, "mixture")
    random = np.random.default_rng([seed, dimension, points])
    x, y = FAMILIES[family](random, points, dimension)
    return Problem(name, x, y, float(match[4]), tolerance)


def _ring(random: np.random.Generator, points: int, dimension: int) -> tuple[Array, Array]:
    """A uniform square to eight Gaussians on a circle (the first two dimensions; noise in the others)."""
    x, angle = random.uniform(-1, 1, (points, dimension)), random.integers(0, 8, points) * math.pi / 4
    y = 0.1 * random.standard_normal((points, dimension))
    y[:, :2] += 1.2 * np.stack([np.cos(angle), np.sin(angle)], 1)
    return x, y


def _mixture(random: np.random.Generator, points: int, dimension: int) -> tuple[Array, Array]:
    """A standard normal to five anisotropic Gaussians."""
    mean, spread = random.standard_normal((5, dimension)), random.uniform(0.3, 1.0, (5, dimension))
    member = random.integers(0, 5, points)
    y = mean[member] + spread[member] * random.standard_normal((points, dimension))
    return random.standard_normal((points, dimension)), y


def _digits(random: np.random.Generator, points: int, dimension: int) -> tuple[Array, Array]:
    """Real scans of 0 to 4 to those of 5 to 9, enlarged to 28 × 28, shifted by up to two pixels, with noise."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(images.reshape(-1, 1, 8, 8) / 16.0)
    large = torch.nn.functional.interpolate(images, size=(28, 28), mode="bilinear", align_corners=True)[:, 0].numpy()

    def draw(members: NDArray[np.bool_]) -> Array:
        picked = large[random.choice(np.flatnonzero(members), points)]
        shifts = random.integers(-2, 3, (points, 2))
        moved = np.stack([np.roll(image, shift, (0, 1)) for image, shift in zip(picked, shifts, strict=True)])
        return (moved + 0.05 * random.standard_normal(moved.shape)).reshape(points, 784)

    if dimension != 784:
        raise ValueError("digits have 784 dimensions")
    return draw(labels < 5), draw(labels >= 5)


def _sphere(random: np.random.Generator, points: int, dimension: int) -> tuple[Array, Array]:
    """A sphere to a shifted, flattened Gaussian with a few far outliers."""
    x = random.standard_normal((points, dimension))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = random.standard_normal((points, dimension)) * np.linspace(0.1, 1, dimension) + 0.5
    y[: points // 100] *= 3
    return x, y


FAMILIES: dict[str, Callable[[np.random.Generator, int, int], tuple[Array, Array]]] = {
    "ring": _ring,
    "mixture": _mixture,
    "digits": _digits,
    "sphere": _sphere,
}


def true_error(problem: Problem, answer: Answer) -> float:
    """The larger L1 error of the two marginals of the plan, in float64 from the potentials alone."""
    f, g = (torch.as_tensor(np.asarray(z, dtype=np.float64).ravel()) for z in (answer.f, answer.g))
    x, y = torch.from_numpy(problem.x), torch.from_numpy(problem.y)
    return max(_error(x, y, f, g, problem), _error(y, x, g, f, problem))


def _error(x: torch.Tensor, y: torch.Tensor, f: torch.Tensor, g: torch.Tensor, problem: Problem) -> float:
    total, rate = 0.0, 1 / (problem.scale * problem.epsilon)
    right = g / problem.epsilon - math.log(len(y))
    for start in range(0, len(x), 512):
        rows = slice(start, start + 512)
        distances = torch.cdist(x[rows], y, compute_mode="donot_use_mm_for_euclid_dist").square_()
        sums = torch.logsumexp(right - rate * distances, 1)
        total += float(torch.expm1(sums + f[rows] / problem.epsilon).abs().sum()) / len(x)
    return total
