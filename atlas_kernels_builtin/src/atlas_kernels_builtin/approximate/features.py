"""Random frequencies of a kernel: orthogonal directions with the lengths that its spectral law asks for."""

from __future__ import annotations

import functools

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Kernel
from atlas_kernels_builtin.approximate.directions import MATRIX_DIMENSION, Directions
from atlas_kernels_builtin.approximate.spectral import gamma, rates_of


@attrs.frozen(eq=False, slots=False)
class Frequencies:
    """Normal vectors ω_k ~ N(0, I), orthogonal within blocks, and the rates τ_k of k^(1/ε): see `SpectralKernel`.

    k(x, y)^(1/ε) / k(0, 0)^(1/ε) = E exp(−τ |x − y|²) = E cos √(2τ) ω·(x − y).
    """

    directions: Directions
    lengths: Tensor
    """|ω_k| in R^p, (count,): chi with p degrees of freedom, so that each ω_k on its own is normal (Yu et al. 2016)."""
    rates: Tensor
    """τ_k, (count,), or (count, d)."""

    @classmethod
    def draw(cls, kernel: Kernel, count: int, dim: int, *, epsilon: float, seed: int) -> Frequencies:
        """Draw them on the CPU, in float64: the same on every device. Raises ValueError for an unknown spectral law."""
        generator = torch.Generator().manual_seed(seed)
        rates = rates_of(kernel, count, dim, epsilon=epsilon, generator=generator)
        directions = Directions.draw(count, dim, generator)
        lengths = (2 * gamma(directions.size / 2, count, generator)).sqrt()
        return cls(directions, lengths, rates)

    def to(self, like: Tensor) -> Frequencies:
        """The same on the device and in the dtype of `like`."""
        return Frequencies(self.directions.to(like), self.lengths.to(like), self.rates.to(like))

    def project(self, x: Tensor) -> Tensor:
        """√(2τ_k) ω_k·x: (n, d) -> (n, count)."""
        if self.rates.ndim == 1 and self.directions.size > MATRIX_DIMENSION:
            return self.directions.project(x) * (self.lengths * (2 * self.rates).sqrt())
        return x @ self.scaled.mT

    @functools.cached_property
    def scaled(self) -> Tensor:
        """√(2τ_k) ω_k, (count, d)."""
        scale = (2 * self.rates).sqrt()
        return self.vectors * (scale if scale.ndim == 2 else scale[:, None])

    @functools.cached_property
    def vectors(self) -> Tensor:
        """ω_k themselves, cut to d coordinates: (count, d)."""
        return self.directions.matrix() * self.lengths[:, None]


def height(kernel: Kernel, dim: int, epsilon: float, like: Tensor) -> Tensor:
    """log k(0, 0)^(1/ε): how high the mixture of Gaussians is, in the dtype of `like`."""
    origin = torch.zeros(1, dim, dtype=torch.float64)
    return (kernel.log_kernel(origin, origin)[0, 0] / epsilon).to(like)


def centred(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The points without their common centre, which no stationary kernel sees: small phases keep their digits."""
    centre = 0.5 * (x.detach().mean(-2, keepdim=True) + y.detach().mean(-2, keepdim=True))
    return x - centre, y - centre


def check_kernel(name: str, kernel: Kernel) -> None:
    """Raise ValueError for a kernel of which there are no features: signed, or not of points."""
    if not kernel.has_log:
        raise ValueError(
            f"{name}: {type(kernel).__name__} is a signed kernel, which is no mixture of Gaussians: use "
            '`nystroem` with method = "k-means++"'
        )
    if kernel.item_ndim != 1:
        raise ValueError(
            f"{name} takes kernels of points, not of items with {kernel.item_ndim} dimensions: use `nystroem`"
        )


def check_number(name: str, epsilon: float | Tensor) -> float:
    """ε as a number: the features depend on it through random draws, which pass no gradient (ValueError)."""
    if isinstance(epsilon, Tensor) and epsilon.requires_grad:
        raise ValueError(f"{name} passes no gradient to ε: use `nystroem` or an exact kernel, or ε without a graph")
    return float(epsilon)
