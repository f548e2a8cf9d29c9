"""The process `rectified-flow`."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_solvers_builtin.processes.gaussian import GaussianProcess


@attrs.frozen
class RectifiedFlow(GaussianProcess):
    """Draw straight lines from data to noise: flow matching with the linear path.

    α = 1 − t, σ = t, so that dx/dt = z − x₀ along a path. At t = 1 nothing of the data is left: α = 0. The papers of
    flow matching count time the other way.
    """

    paper = "Liu, Gong & Liu 2023, eq. 1; Lipman et al. 2023, eq. 20–22"
    t_min = 0.002 / 1.002  # σ/α = 0.002, as in EDM
    t_max = 1.0

    def alpha(self, t: Tensor) -> Tensor:
        """1 − t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """t."""
        return t.clone()

    def alpha_dot(self, t: Tensor) -> Tensor:
        """−1."""
        return torch.full_like(t, -1.0)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def log_snr(self, t: Tensor) -> Tensor:
        """2 ln((1 − t) / t)."""
        return 2 * (torch.log1p(-t) - t.log())

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """1 / (1 + e^(l/2))."""
        return torch.sigmoid(-log_snr / 2)
