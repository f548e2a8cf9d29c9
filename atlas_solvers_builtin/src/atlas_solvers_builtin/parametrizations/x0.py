"""The parametrization `x0`."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Process
from atlas_solvers_builtin.parametrizations.scaling import Coefficients, finite_at_data, noise_embedding, unit_input


@attrs.frozen
class X0:
    """Let the network name the clean data itself: F = x̂₀.

    Legal on every process. With little noise the network has to reproduce its input.
    """

    paper = "Salimans & Ho 2022, section 4"

    def coefficients(self, process: Process, t: Tensor) -> Coefficients:
        """c_skip = 0, c_out = 1."""
        alpha, sigma = process.alpha(t), process.sigma(t)
        skip, out = finite_at_data(alpha, sigma, torch.zeros_like(alpha), torch.ones_like(alpha))
        return unit_input(alpha, sigma), skip, out, noise_embedding(process.log_snr(t))
