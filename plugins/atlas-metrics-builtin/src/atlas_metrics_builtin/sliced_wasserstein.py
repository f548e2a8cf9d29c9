"""The metric `sliced-wasserstein`."""

from __future__ import annotations

import math

import attrs
import numpy as np
import torch
from torch import Tensor

from atlas_core.contracts import MetricResult
from atlas_metrics_builtin.features import FeatureSets

CHUNK = 2**23
"""Projected values of one set that are in memory at once."""


@attrs.define
class SlicedWasserstein(FeatureSets):
    """Tell two sets apart by their shadows: transport along random lines, which sorting solves; lower is better.

    SW₂ = (E_θ W₂²(⟨θ, x⟩, ⟨θ, y⟩))^½ over directions θ uniform on the sphere, in units of the data: a shift by h in d
    dimensions is |h| / √d. Along a line W₂ is exact, for sets of any two sizes: both quantile functions are steps.
    `standard_error` in the details is that of the directions; that of the samples is not in it. Few samples make it
    larger: compare it with the floor. Direction number l depends on the seed, the dimension and l alone.
    """

    better = "lower"
    paper = "Bonneel et al. 2015, sec. 2.3"

    directions: int = attrs.field(
        default=500,
        validator=attrs.validators.ge(2),
        metadata={"help": "Random directions; the standard error falls with the root of their number."},
    )

    def compute(self) -> MetricResult:
        """Raises ValueError without a sample on either side."""
        x, y = (rows.double() for rows in self.both(at_least=1))
        squares = squared_distances(x, y, random_directions(self.directions, x.shape[1], self.seed))
        square, error = float(squares.mean()), float(squares.std()) / math.sqrt(self.directions)
        value = math.sqrt(square)
        details = {
            # Of the root, by its slope at the mean.
            "standard_error": error / (2 * value) if value > 0 else 0.0,
            "n_real": len(y),
        }
        return MetricResult(value, len(x), self.features, details=details)


def random_directions(count: int, dimensions: int, seed: int) -> Tensor:
    """Return unit vectors (count, d), float64, uniform on the sphere."""
    normal = np.random.Generator(np.random.Philox(seed)).standard_normal((count, dimensions))
    return torch.from_numpy(normal / np.linalg.norm(normal, axis=1, keepdims=True))


def squared_distances(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    """W₂² of x (n, d) and y (m, d) along each direction (l, d): (l,)."""
    steps = quantile_steps(len(x), len(y))
    size = max(1, CHUNK // max(len(x), len(y)))
    return torch.cat([_along(x @ part.T, y @ part.T, steps) for part in torch.split(directions, size)])


def _along(x: Tensor, y: Tensor, steps: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """W₂² of each column of x (n, l) and y (m, l): (l,)."""
    rows, columns, masses = steps
    gaps = x.sort(0).values[rows] - y.sort(0).values[columns]
    return masses @ gaps.square()


def quantile_steps(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the monotone plan between n and m equal weights: rows (n + m,), columns (n + m,), masses (n + m,).

    The steps of both quantile functions, i/n and j/m, are counted in units of 1/(nm): nothing is rounded. Where two of
    them coincide, a mass is 0.
    """
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).sort().values
    masses = ends.diff(prepend=ends.new_zeros(1)).double() / (n * m)
    return (ends - 1) // m, (ends - 1) // n, masses
