"""The Laplacian kernel, whose transport cost is the distance itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import attrs
import torch
from torch import Tensor

from atlas_kernels_builtin.kernels.distances import distance, squared_distances


@attrs.frozen
class Laplacian:
    """Compare points by their distance: the kernel of the Monge problem, with exponential tails.

    k(x, y) = exp(−|x − y| / scale), hence the transport cost C = |x − y| / scale. Positive definite in any dimension,
    for either norm; with `l2` it is `matern` with ν = 1/2.
    """

    has_log = True
    item_ndim = 1
    paper = "Rasmussen & Williams 2006, eq. 4.18"

    scale: float = attrs.field(
        default=1.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "Distance at which the kernel has fallen to 1/e, in the units of the data."},
    )
    norm: Literal["l1", "l2"] = attrs.field(
        default="l2",
        validator=attrs.validators.in_(("l1", "l2")),
        metadata={"help": "l2: the Euclidean distance; l1: the sum over coordinates of |x − y|."},
    )

    def log_kernel(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log k of every pair: (n, d), (m, d) -> (n, m)."""
        if self.norm == "l1":
            return -torch.cdist(x, y, p=1.0) / self.scale
        return self._log_radial(squared_distances(x, y))

    @property
    def log_radial(self) -> Callable[[Tensor], Tensor]:
        """log k of squared distances, of any shape (see `RadialKernel`); only `l2` is a function of them."""
        if self.norm == "l1":
            raise AttributeError("laplacian with norm = l1 is no function of the Euclidean distance: no log_radial")
        return self._log_radial

    def gaussian_rates(self, count: int, dim: int, *, epsilon: float, generator: torch.Generator) -> Tensor:
        """Draw the rates of its Gaussians (see `SpectralKernel`): (count,), or with l1 one a coordinate, (count, dim).

        exp(−r / s) is E exp(−τ r²) for τ = 1 / (2 s² g²) with g ~ N(0, 1), a Lévy law.
        """
        shape = (count,) if self.norm == "l2" else (count, dim)
        normal = torch.randn(shape, generator=generator, dtype=torch.float64)
        return 0.5 / (self.scale * epsilon * normal).square()

    def _log_radial(self, squared: Tensor) -> Tensor:
        return distance(squared).mul_(-1 / self.scale)
