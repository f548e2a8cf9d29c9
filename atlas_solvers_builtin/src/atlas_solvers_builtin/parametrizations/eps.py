"""The parametrization `eps`."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Process
from atlas_solvers_builtin.parametrizations.scaling import Coefficients, noise_embedding, unit_input

_LEAST_LOG_SNR = -11.0
"""A little below where vp-linear ends: there is no more signal to divide by."""


@attrs.frozen
class Eps:
    """Let the network name the noise: F = z, x̂₀ = (x − σ F) / α.

    It divides by α. Where a process has α(1) = 0 the coefficients do not exist, and sampling starts at `t_max`.
    """

    paper = "Ho, Jain & Abbeel 2020, eq. 15"

    def t_max(self, process: Process) -> float:
        """The time at which log-SNR has fallen to −11 (σ/α = 245), or the end of the process."""
        last = torch.tensor(process.t_max, dtype=torch.float64)
        if process.log_snr(last) >= _LEAST_LOG_SNR:
            return float(last)
        return float(process.time_of_log_snr(torch.full_like(last, _LEAST_LOG_SNR)))

    def coefficients(self, process: Process, t: Tensor) -> Coefficients:
        """c_skip = 1/α, c_out = −σ/α. Raises ValueError where α = 0."""
        alpha, sigma = process.alpha(t), process.sigma(t)
        if bool((alpha == 0).any()):
            raise ValueError(
                f"eps divides by alpha, which {type(process).__name__} has as 0 at t = {float(t.max()):g}; "
                f"start at t <= {self.t_max(process):.6g}, or use another parametrization (v, x0, velocity, edm)"
            )
        return unit_input(alpha, sigma), 1 / alpha, -sigma / alpha, noise_embedding(process.log_snr(t))
