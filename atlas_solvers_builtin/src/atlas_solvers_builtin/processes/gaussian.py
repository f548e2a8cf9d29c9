"""What every process with Gaussian noise derives from its own α, σ and log-SNR."""

from __future__ import annotations

import abc

import torch
from torch import Tensor


def like(coefficient: Tensor, x: Tensor) -> float | Tensor:
    """Make a float64 coefficient, 0-d or (b,), multiply x (b, *item): cast last, as a plain number where it is one."""
    if coefficient.ndim == 0:
        return float(coefficient)
    return coefficient.to(device=x.device, dtype=x.dtype).view(-1, *[1] * (x.ndim - 1))


class GaussianProcess(abc.ABC):
    """Derive steps and mixtures from α, σ and log-SNR; every formula is finite where α_s = 0 or σ_t = 0.

    A convenience of this package: a process that defines all the methods of the contract itself is as good.
    """

    __slots__ = ()

    @abc.abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the data at t."""

    @abc.abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Scale of the noise at t."""

    @abc.abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """ln(α² / σ²)."""

    def mix(self, x0: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """α x₀ + σ z: (b, *item), (b, *item), 0-d or (b,) -> (b, *item), in the dtype of x0."""
        return like(self.alpha(t), x0) * x0 + like(self.sigma(t), x0) * z

    def ode_step(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """keep = σ_t / σ_s and pull = α_t − α_s σ_t / σ_s: x_t = keep x_s + pull x̂₀, exact for frozen x̂₀."""
        keep = self.sigma(t) / self.sigma(s)
        return keep, self.alpha(t) - self.alpha(s) * keep

    def posterior(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """keep, pull, std of p(x_t | x_s, x₀ = x̂₀) for t < s (Ho et al. 2020, eq. 6–7, for any α and σ).

        With r = SNR_s / SNR_t: keep = α_s σ_t² / (α_t σ_s²), pull = α_t (1 − r), std = σ_t √(1 − r).
        """
        # expm1 of the log-SNR's difference: 1 − r loses no digits on fine grids, and is 1 where either is infinite.
        gain = -torch.expm1(self.log_snr(s) - self.log_snr(t))
        alpha_t, sigma_t = self.alpha(t), self.sigma(t)
        keep = self.alpha(s) * sigma_t.square() / (alpha_t * self.sigma(s).square())
        return keep, alpha_t * gain, sigma_t * gain.sqrt()

    def prior(self, unit: Tensor, t: float = 1.0) -> Tensor:
        """σ(t) · unit: the marginal at t but for the data, which α(t) has all but removed."""
        return unit * float(self.sigma(torch.tensor(t, dtype=torch.float64)))
