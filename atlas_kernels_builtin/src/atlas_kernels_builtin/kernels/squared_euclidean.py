"""The Gaussian kernel said as a cost: the squared distance, in units of its mean or of a number."""

from __future__ import annotations

import math
from typing import Literal

import attrs
import torch
from torch import Tensor

from atlas_kernels_builtin.exact.checks import check_range
from atlas_kernels_builtin.kernels.distances import squared_distances
from atlas_kernels_builtin.kernels.parts import SMALLEST

CHUNK = 2**18
"""Coordinates whose moments are taken in one go."""


@attrs.frozen
class SquaredEuclidean:
    """Move mass at the squared distance: quadratic optimal transport, in units that a problem sets itself.

    C(x, y) = |x − y|² / scale, halved if `half`; k = exp(−C). With scale = "mean" the scale is the mean of |x − y|²
    over the two sets, so that ε = 0.05 means the same whatever the units: `fitted` puts the number in, and an operator
    or a solver calls it, the latter with its weights. The number is a constant: gradients do not pass through the mean.
    Asked for a block before that, the kernel takes the mean of the two sets of the block.
    """

    has_log = True
    item_ndim = 1
    paper = "Peyré & Cuturi 2019, rem. 2.22"

    scale: float | Literal["mean"] = attrs.field(
        default="mean",
        metadata={
            "help": 'Unit of the cost, in squared units of the data; "mean": that of |x − y|², constant for gradients.'
        },
    )
    half: bool = attrs.field(default=False, metadata={"help": "Use |x − y|² / 2 instead of |x − y|²."})

    @scale.validator
    def _positive(self, attribute: object, value: object) -> None:
        if value != "mean" and (not isinstance(value, float | int) or isinstance(value, bool) or not value > 0):
            raise ValueError(f"scale must be a positive number or 'mean', not {value!r}")

    @property
    def quadratic(self) -> float:
        """c of log k = −c |x − y|² (see `RadialKernel`); there is none before the scale is a number."""
        if self.scale == "mean":
            raise AttributeError("squared-euclidean with scale = mean has no `quadratic` before fitted(x, y)")
        return (0.5 if self.half else 1.0) / float(self.scale)

    def fitted(self, x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> SquaredEuclidean:
        """Return the kernel with a number as its scale: "mean" becomes Σ_ij a_i b_j |x_i − y_j|² / (Σ a Σ b).

        x (*batch, n, d) and y (*batch, m, d), weights (n,) and (m,) or with the batch, uniform where None; one number
        for the whole batch. Points that all coincide get 1: they cost nothing in any unit. Raises ValueError for
        points that are not finite.
        """
        if self.scale != "mean":
            return self
        mean = float(_mean_squared(x.detach(), y.detach(), a, b))
        if not math.isfinite(mean):
            largest = max(float(points.detach().abs().amax()) for points in (x, y))
            raise ValueError(
                f"squared-euclidean: the mean of |x − y|² is not finite: the largest coordinate is {largest:.3g}"
                + (f"; multiply the points by 2.0**{-round(math.log2(largest))}" if math.isfinite(largest) else "")
            )
        if mean < SMALLEST**2:
            check_range(self, x, y)  # squares that underflow
        return attrs.evolve(self, scale=mean if mean > 0 else 1.0)

    def log_kernel(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log k of every pair: (n, d), (m, d) -> (n, m)."""
        squared = squared_distances(x, y)
        if self.scale != "mean":
            return squared * -self.quadratic
        mean = _mean_squared(x.detach(), y.detach(), None, None)  # a tensor: the engine may be mapping over a batch
        return squared * torch.where(mean > 0, (-0.5 if self.half else -1.0) / mean, -1.0).to(squared)

    def log_radial(self, squared: Tensor) -> Tensor:
        """Return log k of squared distances, of any shape (see `RadialKernel`). Raises ValueError before `fitted`."""
        if self.scale == "mean":
            raise ValueError("squared-euclidean: the scale is the mean of |x − y|²; call fitted(x, y) first")
        return squared * -self.quadratic


def _mean_squared(x: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None) -> Tensor:
    """Σ_ij a_i b_j |x_i − y_j|² / (Σ a Σ b) = var x + var y + |mean x − mean y|², a mean over the batch."""
    (mean_x, variance_x), (mean_y, variance_y) = (_moments(*side) for side in ((x, a), (y, b)))
    return (variance_x + variance_y + (mean_x - mean_y).square().sum(-1)).mean()


def _moments(points: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean (*batch, d) and total variance (*batch,) of weighted points, without a copy of all of them."""
    n = points.shape[-2]
    if weights is None:
        shares = torch.full((n, 1), 1 / n, dtype=torch.float64, device=points.device)
    else:
        weights = weights.detach().double()
        shares = (weights / weights.sum(-1, keepdim=True))[..., None]
    step = max(1, CHUNK // (points.numel() // n))
    pieces = [slice(start, start + step) for start in range(0, n, step)]
    mean = sum((shares[..., rows, :].mT @ points[..., rows, :].double() for rows in pieces), torch.zeros(()))
    spread = torch.zeros((), dtype=torch.float64, device=points.device)
    for rows in pieces:
        apart = torch.linalg.vector_norm(points[..., rows, :].double() - mean, dim=-1, keepdim=True)
        spread = spread + (shares[..., rows, :] * apart.square()).sum((-1, -2))
    return mean[..., 0, :], spread
