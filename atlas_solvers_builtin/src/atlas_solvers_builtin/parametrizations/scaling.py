"""What the parametrizations share: scales of the input, the embedding of the noise level, the limit at σ = 0."""

from __future__ import annotations

import torch
from torch import Tensor

Coefficients = tuple[Tensor, Tensor, Tensor, Tensor]
"""c_in, c_skip, c_out, c_noise."""


def unit_input(alpha: Tensor, sigma: Tensor) -> Tensor:
    """c_in that never amplifies: 1 on variance-preserving processes and rectified flow, 1/√(1 + σ²) on EDM.

    These are the scales that the networks of the papers were trained with; for data of unit scale or below, the
    network's input is of order one on all of them.
    """
    return 1 / torch.hypot(alpha, sigma).clamp(min=1)


def noise_embedding(log_snr: Tensor) -> Tensor:
    """c_noise = −log_snr / 8, which is ln(σ) / 4 on EDM (Karras et al. 2022, table 1), held within ±2.

    One number for one ratio of signal to noise, whatever the process. Beyond ±16 there is nothing to tell apart.
    """
    return -log_snr.clamp(-16, 16) / 8


def finite_at_data(alpha: Tensor, sigma: Tensor, skip: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Return c_skip, c_out with their limit where σ = 0: x̂₀ = x / α, whatever the network says."""
    data = sigma == 0
    return torch.where(data, 1 / alpha, skip), torch.where(data, 0.0, out)
