"""The Matérn kernels, whose smoothness is a setting."""

from __future__ import annotations

import functools
import math

import attrs
import torch
from torch import Tensor

from atlas_kernels_builtin.approximate.inversion import draw, tabulate
from atlas_kernels_builtin.approximate.spectral import gamma, repeated
from atlas_kernels_builtin.kernels.distances import distance, squared_distances


@attrs.frozen
class Matern:
    """Compare points with a smoothness between that of `laplacian` (ν = 1/2) and that of `gaussian` (ν → ∞).

    With u = √(2ν) |x − y| / scale, k = exp(−u), (1 + u) exp(−u) or (1 + u + u²/3) exp(−u) for ν = 1/2, 3/2, 5/2; the
    transport cost is −log k: quadratic up close (ν > 1/2), linear far away. Positive definite in any dimension.
    """

    has_log = True
    item_ndim = 1
    paper = "Rasmussen & Williams 2006, eq. 4.14–4.17"

    nu: float = attrs.field(
        default=1.5,
        validator=attrs.validators.in_((0.5, 1.5, 2.5)),
        metadata={"help": "Smoothness ν: functions of the kernel's space have fewer than ν derivatives."},
    )
    scale: float = attrs.field(
        default=1.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "Length over which the kernel falls, in the units of the data."},
    )

    def log_kernel(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log k of every pair: (n, d), (m, d) -> (n, m)."""
        return self.log_radial(squared_distances(x, y))

    def log_radial(self, squared: Tensor) -> Tensor:
        """Return log k of squared distances, of any shape (see `RadialKernel`)."""
        u = distance(squared) * (math.sqrt(2 * self.nu) / self.scale)
        if self.nu == 0.5:
            return -u
        if self.nu == 1.5:
            return torch.log1p(u) - u
        return torch.log1p(u * (1 + u / 3)) - u

    def gaussian_rates(self, count: int, dim: int, *, epsilon: float, generator: torch.Generator) -> Tensor:
        """Draw the rates of its Gaussians (see `SpectralKernel`): τ = ν / (2 s² G), G ~ Gamma(ν), (count,).

        Hence frequencies of Student's law with 2ν degrees of freedom, which is infinitely divisible (Grosswald 1976):
        k^(1/ε) is a mixture, too. Its rates are sums of ⌊1/ε⌋ draws, and one of the fraction's law by inversion.
        """
        if self.nu == 0.5:
            return 0.5 * self.nu / (gamma(self.nu, count, generator) * (self.scale * epsilon) ** 2)
        unit = 0.5 * self.nu / self.scale**2

        def fraction(power: float) -> Tensor:
            return unit * draw(_table(self.nu, power), count, generator)

        return repeated(lambda: unit / gamma(self.nu, count, generator), epsilon, "matern", fraction)


@functools.lru_cache(maxsize=64)
def _table(nu: float, power: float) -> tuple[Tensor, Tensor]:
    """The law whose transform is that of 1 / G to a power: k at u = 2 √s."""

    def transform(s: Tensor) -> Tensor:
        u = 2 * s.sqrt()
        return (power * ((1 + u if nu == 1.5 else 1 + u + u.square() / 3).log() - u)).exp()

    return tabulate(transform, 1e-3 * power**2, 1e7)
