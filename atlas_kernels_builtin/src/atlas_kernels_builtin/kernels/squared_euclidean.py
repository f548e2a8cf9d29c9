"""The Gaussian kernel said as a cost: the squared distance, in units of its mean or of a number."""

from __future__ import annotations

import math
from typing import Literal

import attrs
import torch
from torch import Tensor

from atlas_kernels_builtin.exact.checks import check_range
from atlas_kernels_builtin.kernels.distances import squared_distances
from atlas_kernels_builtin.kernels.mean_squared import mean_squared
from atlas_kernels_builtin.kernels.parts import SMALLEST


@attrs.frozen
class SquaredEuclidean:
    """Move mass at the squared distance: quadratic optimal transport, in units that a problem sets itself.

    C(x, y) = |x − y|² / scale, halved if `half`; k = exp(−C). With scale = "mean" the scale is the mean of |x − y|²
    over the two sets, so that ε = 0.05 means the same whatever the units: `fitted` puts the number in, and an operator
    or a solver calls it, the latter with its weights. Points and weights that want a gradient get that of the mean,
    too, so that derivatives are those of what is computed. Asked for a block before that, the kernel takes the mean of
    the two sets of the block.
    """

    has_log = True
    item_ndim = 1
    paper = "Peyré & Cuturi 2019, rem. 2.22"

    scale: float | Literal["mean"] = attrs.field(
        default="mean",
        metadata={"help": 'Unit of the cost, in squared units of the data; "mean": that of |x − y|² over both sets.'},
    )
    half: bool = attrs.field(default=False, metadata={"help": "Use |x − y|² / 2 instead of |x − y|²."})
    mean: Tensor | None = attrs.field(init=False, default=None, repr=False)
    """The scale with its graph, of points or weights that want a gradient."""

    @scale.validator
    def _positive(self, attribute: object, value: object) -> None:
        if value != "mean" and (not isinstance(value, float | int) or isinstance(value, bool) or not value > 0):
            raise ValueError(f"scale must be a positive number or 'mean', not {value!r}")

    @property
    def quadratic(self) -> float:
        """c of log k = −c |x − y|² (see `RadialKernel`); there is none before the scale is a number."""
        if self.scale == "mean":
            raise AttributeError("squared-euclidean with scale = mean has no `quadratic` before fitted(x, y)")
        return self._share / float(self.scale)

    @property
    def _share(self) -> float:
        return 0.5 if self.half else 1.0

    def fitted(self, x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> SquaredEuclidean:
        """Return the kernel with a number as its scale: "mean" becomes Σ_ij a_i b_j |x_i − y_j|² / (Σ a Σ b).

        x (*batch, n, d) and y (*batch, m, d), weights (n,) and (m,) or with the batch, uniform where None; one number
        for the whole batch. Its first derivatives by points and weights pass through the kernel. Points that all
        coincide get 1: they cost nothing in any unit. Raises ValueError for points that are not finite.
        """
        if self.scale != "mean":
            return self
        attached = mean_squared(x, y, a, b)
        mean = float(attached.detach())
        if not math.isfinite(mean):
            largest = max(float(points.detach().abs().amax()) for points in (x, y))
            raise ValueError(
                f"squared-euclidean: the mean of |x − y|² is not finite: the largest coordinate is {largest:.3g}"
                + (f"; multiply the points by 2.0**{-round(math.log2(largest))}" if math.isfinite(largest) else "")
            )
        if mean < SMALLEST**2:
            check_range(self, x, y)  # squares that underflow
        made = attrs.evolve(self, scale=mean if mean > 0 else 1.0)
        if attached.requires_grad and mean > 0:
            object.__setattr__(made, "mean", attached)
        return made

    def log_kernel(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log k of every pair: (n, d), (m, d) -> (n, m)."""
        squared = squared_distances(x, y)
        if self.scale != "mean":
            return squared * -self._rate(squared)
        mean = squared.mean()  # a tensor: the engine may be mapping over a batch
        return squared * torch.where(mean > 0, -self._share / torch.where(mean > 0, mean, 1.0), -1.0)

    def log_radial(self, squared: Tensor) -> Tensor:
        """Return log k of squared distances, of any shape (see `RadialKernel`). Raises ValueError before `fitted`."""
        if self.scale == "mean":
            raise ValueError("squared-euclidean: the scale is the mean of |x − y|²; call fitted(x, y) first")
        return squared * -self._rate(squared)

    def gaussian_rates(self, count: int, dim: int, *, epsilon: float, generator: torch.Generator) -> Tensor:
        """The rate of k^(1/ε), `quadratic` / ε, with the graph of the mean: (count,) (see `SpectralKernel`)."""
        like = torch.empty((), dtype=torch.float64)
        return torch.as_tensor(self._rate(like) / epsilon, dtype=torch.float64).expand(count)

    def _rate(self, like: Tensor) -> float | Tensor:
        """`quadratic`, with its graph where it has one."""
        if self.mean is None or not torch.is_grad_enabled():
            return self.quadratic
        return (self._share / self.mean).to(like)
