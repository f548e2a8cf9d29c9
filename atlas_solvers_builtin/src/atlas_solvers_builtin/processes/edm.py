"""The process `edm`."""

from __future__ import annotations

import math

import attrs
import torch
from attrs.validators import gt
from torch import Tensor

from atlas_solvers_builtin.processes.gaussian import GaussianProcess


@attrs.frozen
class EDM(GaussianProcess):
    """Leave the data as it is and add noise up to many times its size.

    α = 1, σ = sigma_max · t^rho: σ(0) = 0 is data, and steps that are even in t are the ρ-grid of Karras et al. eq. 5.
    Training and sampling stop at sigma_min; with the defaults that is t_min = 0.220.
    """

    paper = "Karras et al. 2022, table 1 (ours)"
    t_max = 1.0

    sigma_max: float = attrs.field(default=80.0, metadata={"help": "Noise at t = 1; above sigma_min."})
    sigma_min: float = attrs.field(
        default=0.002, validator=gt(0), metadata={"help": "Least noise before the last step."}
    )
    rho: float = attrs.field(
        default=7.0, validator=gt(0), metadata={"help": "How slowly the noise falls near the data."}
    )

    @sigma_max.validator
    def _above_sigma_min(self, attribute: object, value: float) -> None:
        if value <= self.sigma_min:
            raise ValueError(f"sigma_max must be above sigma_min = {self.sigma_min:g}, not {value:g}")

    @property
    def t_min(self) -> float:
        """Where σ = sigma_min."""
        return math.pow(self.sigma_min / self.sigma_max, 1 / self.rho)

    def alpha(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """sigma_max · t^rho."""
        return self.sigma_max * t.pow(self.rho)

    def alpha_dot(self, t: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """sigma_max · rho · t^(rho − 1)."""
        return self.sigma_max * self.rho * t.pow(self.rho - 1)

    def log_snr(self, t: Tensor) -> Tensor:
        """−2 ln σ."""
        return -2 * (math.log(self.sigma_max) + self.rho * t.log())

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """(σ / sigma_max)^(1/rho)."""
        return torch.exp((-log_snr / 2 - math.log(self.sigma_max)) / self.rho)
