"""The parametrization `edm`."""

from __future__ import annotations

import attrs
import torch
from attrs.validators import gt
from torch import Tensor

from atlas_core import derived
from atlas_core.contracts import Process
from atlas_solvers_builtin.parametrizations.scaling import Coefficients, finite_at_data, noise_embedding


@attrs.frozen
class EDM:
    """Give the network input and output of unit scale at every noise level, and let its errors matter least.

    With d = sigma_data and m = σ² + α²d²: c_in = 1/√m, c_skip = αd²/m, c_out = σd/√m; for α = 1 those of the paper.
    c_skip is the best linear guess of x₀. Finite at α = 0, so legal on every process.
    """

    paper = "Karras et al. 2022, table 1 and appendix B.6"

    sigma_data: float = derived("data.std", help="Standard deviation of the data.", validator=gt(0))

    def coefficients(self, process: Process, t: Tensor) -> Coefficients:
        """c_in = 1/√m, c_skip = αd²/m, c_out = σd/√m."""
        alpha, sigma, d = process.alpha(t), process.sigma(t), self.sigma_data
        scale = torch.hypot(sigma, alpha * d)
        skip, out = finite_at_data(alpha, sigma, alpha * d**2 / scale.square(), sigma * d / scale)
        return 1 / scale, skip, out, noise_embedding(process.log_snr(t))
