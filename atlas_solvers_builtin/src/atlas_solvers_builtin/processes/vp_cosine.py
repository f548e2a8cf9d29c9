"""The process `vp-cosine`."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from atlas_solvers_builtin.processes.gaussian import GaussianProcess

_QUARTER = math.pi / 2


@attrs.frozen
class VPCosine(GaussianProcess):
    """Turn data into noise at constant speed on the circle, so that no noise level is hurried through.

    α = cos(πt/2), σ = sin(πt/2). The discrete schedule of the paper adds an offset that keeps its first β from
    vanishing; in continuous time there is none. At t = 1 nothing of the data is left: α = 0 exactly.
    """

    paper = "Nichol & Dhariwal 2021, eq. 17, in the continuous time of Salimans & Ho 2022"
    t_min = math.atan(0.002) / _QUARTER  # σ/α = 0.002, as in EDM
    t_max = 1.0

    def alpha(self, t: Tensor) -> Tensor:
        """cos(πt/2), as a sine: zero at t = 1, and no digit lost near it."""
        return torch.sin(_QUARTER * (1 - t))

    def sigma(self, t: Tensor) -> Tensor:
        """sin(πt/2)."""
        return torch.sin(_QUARTER * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        """−π/2 σ."""
        return -_QUARTER * self.sigma(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """π/2 α."""
        return _QUARTER * self.alpha(t)

    def log_snr(self, t: Tensor) -> Tensor:
        """−2 ln tan(πt/2)."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """2/π · arctan(e^(−l/2))."""
        return torch.atan(torch.exp(-log_snr / 2)) / _QUARTER
