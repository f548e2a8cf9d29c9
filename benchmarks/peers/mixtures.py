"""Gaussian mixtures with an exact denoiser, in the frame that samplers of all libraries share: x₀ + σ z."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

F64 = torch.float64


@attrs.frozen(eq=False)
class Mixture:
    """Σ_k w_k N(μ_k, diag v_k): w (K,), means and variances (K, d), float64."""

    name: str
    weights: Tensor
    means: Tensor
    variances: Tensor

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """E[x₀ | x₀ + σ z = x]: (n, d) -> (n, d)."""
        spread = self.variances + sigma**2
        log_share = self.weights.log() - 0.5 * (
            spread.log().sum(1)
            + (x * x) @ (1 / spread).T
            - 2 * x @ (self.means / spread).T
            + (self.means**2 / spread).sum(1)
        )
        share = log_share.softmax(1)
        return share @ (self.means * sigma**2 / spread) + x * (share @ (self.variances / spread))

    def sample(self, n: int, seed: int) -> Tensor:
        """(n, d) exact samples."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        unit = torch.randn(n, self.means.shape[1], generator=generator, dtype=F64)
        return self.means[which] + self.variances[which].sqrt() * unit


def ring() -> Mixture:
    """Eight components on a circle in the plane, of very different widths."""
    angle = torch.arange(8, dtype=F64) * (2 * math.pi / 8)
    stds = [
        [0.05, 0.20],
        [0.15, 0.03],
        [0.10, 0.10],
        [0.02, 0.12],
        [0.25, 0.05],
        [0.08, 0.02],
        [0.12, 0.18],
        [0.03, 0.03],
    ]
    weights = torch.tensor([0.20, 0.05, 0.15, 0.10, 0.05, 0.20, 0.10, 0.15], dtype=F64)
    return Mixture(
        "gmm2", weights, 0.9 * torch.stack([angle.cos(), angle.sin()], 1), torch.tensor(stds, dtype=F64) ** 2
    )


def images() -> Mixture:
    """Twelve components in 64 dimensions with the decaying spectrum of images; standard deviations from 0.01 to 0.4."""
    golden = 2.399963229728653
    k, j = torch.arange(1, 13, dtype=F64)[:, None], torch.arange(1, 65, dtype=F64)[None]
    spectrum = 1 / (1 + 0.25 * (j - 1)) ** 0.9
    means = 1.1 * spectrum * torch.sin(1.7 + golden * k * j + 0.3 * k * k)
    stds = (0.05 + 0.35 * spectrum) * (0.55 + 0.45 * torch.cos(golden * (k + 2 * j)))
    weights = 1 + 0.6 * torch.sin(3.1 * k[:, 0])
    return Mixture("gmm64", weights / weights.sum(), means, stds.clamp_min(0.01) ** 2)


MIXTURES = {mixture.name: mixture for mixture in (ring(), images())}


def sliced_w2(a: Tensor, b: Tensor, directions: int = 256) -> float:
    """Root mean square of the Wasserstein-2 distances along random directions, of two sets of one size (n, d)."""
    generator = torch.Generator().manual_seed(7)
    v = torch.randn(a.shape[1], directions, generator=generator, dtype=F64)
    v = v / v.norm(dim=0)
    return float(((a @ v).sort(0).values - (b @ v).sort(0).values).square().mean().sqrt())
