"""The parametrization `v`."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Process
from atlas_solvers_builtin.parametrizations.scaling import Coefficients, finite_at_data, noise_embedding, unit_input


@attrs.frozen
class V:
    """Let the network name what is hardest at each noise level: noise when there is little, data when there is much.

    F = (α z − σ x₀) / r with r = √(α² + σ²), hence x̂₀ = (α/r²) x − (σ/r) F. On variance-preserving processes r = 1: the
    v of the paper. On the others it is the same quantity for x/r; F has unit scale if the data has. Legal everywhere.
    """

    paper = "Salimans & Ho 2022, appendix D"

    def coefficients(self, process: Process, t: Tensor) -> Coefficients:
        """c_skip = α/r², c_out = −σ/r."""
        alpha, sigma = process.alpha(t), process.sigma(t)
        radius = torch.hypot(alpha, sigma)
        skip, out = finite_at_data(alpha, sigma, alpha / radius.square(), -sigma / radius)
        return unit_input(alpha, sigma), skip, out, noise_embedding(process.log_snr(t))
