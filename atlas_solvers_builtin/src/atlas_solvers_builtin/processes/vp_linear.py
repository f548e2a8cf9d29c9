"""The process `vp-linear`."""

from __future__ import annotations

import math

import attrs
import torch
from attrs.validators import gt
from torch import Tensor

from atlas_solvers_builtin.processes.gaussian import GaussianProcess


@attrs.frozen
class VPLinear(GaussianProcess):
    """Add noise at a rate that rises linearly, as DDPM does, in continuous time.

    β(t) = beta_min + t (beta_max − beta_min), B(t) = ∫₀ᵗ β, α = exp(−B/2), σ = √(1 − e^−B): x_t keeps unit variance if
    the data has it. σ/α runs from 0.002 at t_min to 152 at t = 1.
    """

    paper = "Song et al. 2021, eq. 32–33; Ho, Jain & Abbeel 2020"
    t_max = 1.0

    beta_min: float = attrs.field(default=0.1, validator=gt(0), metadata={"help": "Rate of the noise at t = 0."})
    beta_max: float = attrs.field(default=20.0, metadata={"help": "Rate of the noise at t = 1; above beta_min."})

    @beta_max.validator
    def _above_beta_min(self, attribute: object, value: float) -> None:
        if value <= self.beta_min:
            raise ValueError(f"beta_max must be above beta_min = {self.beta_min:g}, not {value:g}")

    @property
    def t_min(self) -> float:
        """Where σ/α = 0.002, as in EDM."""
        return float(self.time_of_log_snr(torch.tensor(-2 * math.log(0.002), dtype=torch.float64)))

    def _integral(self, t: Tensor) -> Tensor:
        return t * self.beta_min + t.square() * ((self.beta_max - self.beta_min) / 2)

    def alpha(self, t: Tensor) -> Tensor:
        """exp(−B/2)."""
        return torch.exp(-self._integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        """√(1 − e^−B), without cancellation near t = 0."""
        return (-torch.expm1(-self._integral(t))).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        """−½ β α."""
        return -(self.beta_min + t * (self.beta_max - self.beta_min)) / 2 * self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """½ β α² / σ; infinite at t = 0."""
        return -self.alpha_dot(t) * self.alpha(t) / self.sigma(t)

    def log_snr(self, t: Tensor) -> Tensor:
        """−ln(e^B − 1), written for small and for large B."""
        integral = self._integral(t)
        return -integral - torch.log(-torch.expm1(-integral))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """Solve B(t) = ln(1 + e^−l) for t, by the root that does not cancel."""
        integral = torch.logaddexp(torch.zeros_like(log_snr), -log_snr)
        root = (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral).sqrt()
        return 2 * integral / (self.beta_min + root)
