"""The Cauchy and the inverse multiquadric kernel: powers of 1 + |x − y|² / s², with heavy tails."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_kernels_builtin.approximate.spectral import gamma
from atlas_kernels_builtin.kernels.distances import squared_distances
from atlas_kernels_builtin.kernels.parts import check_length


@attrs.frozen
class Cauchy:
    """Match points that lie far apart as well as near ones: outliers cost little.

    k(x, y) = 1 / (1 + |x − y|² / s²), hence the transport cost C = log(1 + |x − y|² / s²): quadratic up close,
    logarithmic far away. Positive definite in any dimension: it is a scale mixture of Gaussians.
    """

    has_log = True
    item_ndim = 1
    paper = "Rasmussen & Williams 2006, eq. 4.19 with α = 1"
    power = 1.0

    scale: float = attrs.field(
        default=1.0,
        validator=check_length,
        metadata={"help": "Distance s at which k has fallen to one half, in the units of the data."},
    )

    def log_kernel(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log k of every pair: (n, d), (m, d) -> (n, m)."""
        return self.log_radial(squared_distances(x, y))

    def log_radial(self, squared: Tensor) -> Tensor:
        """Return log k of squared distances, of any shape (see `RadialKernel`)."""
        return _log_power(squared, self.scale, self.power)

    def gaussian_rates(self, count: int, dim: int, *, epsilon: float, generator: torch.Generator) -> Tensor:
        """Draw the rates of its Gaussians (see `SpectralKernel`): s² τ ~ Gamma(1 / ε), (count,)."""
        return gamma(self.power / epsilon, count, generator) / self.scale**2


@attrs.frozen
class InverseMultiquadric:
    """Match points over all distances: its tails are heavier still than those of `cauchy`, which is its square.

    k(x, y) = (1 + |x − y|² / s²)^(−1/2), hence the transport cost C = ½ log(1 + |x − y|² / s²). Positive definite in
    any dimension.
    """

    has_log = True
    item_ndim = 1
    paper = "Wendland 2005, Scattered Data Approximation, thm. 7.15"
    power = 0.5

    scale: float = attrs.field(
        default=1.0,
        validator=check_length,
        metadata={"help": "Distance s at which k has fallen to 1/√2, in the units of the data."},
    )

    log_kernel = Cauchy.log_kernel
    log_radial = Cauchy.log_radial
    gaussian_rates = Cauchy.gaussian_rates


def _log_power(squared: Tensor, scale: float, power: float) -> Tensor:
    return -power * torch.log1p(squared / scale**2)
