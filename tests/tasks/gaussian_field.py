"""Denoisers that are known in closed form."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Process


@attrs.frozen(eq=False)
class GaussianField:
    """E[x₀ | x_t] for x₀ ~ N(mean, covariance), items of any shape."""

    process: Process
    mean: Tensor
    covariance: Tensor

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = float(self.process.alpha(t)), float(self.process.sigma(t))
        size = len(self.covariance)
        gain = (
            alpha
            * self.covariance
            @ torch.linalg.inv(alpha**2 * self.covariance + sigma**2 * torch.eye(size, dtype=torch.float64))
        )
        flat = x.flatten(1).double() - alpha * self.mean.flatten()
        return (self.mean.flatten() + flat @ gain.mT).view(x.shape).to(x.dtype)

    def take(self, index: Tensor) -> GaussianField:
        return self


def smooth_covariance(side: int, length: float) -> Tensor:
    """exp(−|p − q|² / 2 length²) between the pixels of a side × side image, float64."""
    pixels = torch.cartesian_prod(*[torch.arange(side, dtype=torch.float64)] * 2)
    return torch.exp(-(torch.cdist(pixels, pixels) ** 2) / (2 * length**2))
