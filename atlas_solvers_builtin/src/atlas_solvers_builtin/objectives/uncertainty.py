"""How large a loss is to be expected at each noise level, learned beside the network that it is the loss of."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from atlas_solvers_builtin.parametrizations.scaling import noise_embedding

FREQUENCIES = 12
LONGEST_PERIOD, SHORTEST_PERIOD = 16.0, 1.0
"""Of c = −log-SNR / 8, which lies within ±2: the loss changes smoothly with the noise level."""


class Uncertainty(nn.Module):
    """u(log-SNR) = b + w · [sin ωc, cos ωc]: L/eᵘ + u is least where u = ln E[L], at every noise level.

    Then every noise level counts alike, whatever its loss is: the gradient of the network is divided by the loss that
    is expected there (Karras et al. 2024, eq. 14 and 15, after Kendall et al. 2018). At first u = 0.
    """

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        slow, fast = math.log(2 * math.pi / LONGEST_PERIOD), math.log(2 * math.pi / SHORTEST_PERIOD)
        # Not saved: a constant of the architecture, no weight.
        self.register_buffer("frequencies", torch.linspace(slow, fast, FREQUENCIES).exp(), persistent=False)
        self.weight = nn.Parameter(torch.zeros(2 * FREQUENCIES))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, log_snr: Tensor) -> Tensor:
        """Return u (b,) for log-SNRs (b,), in the dtype and on the device of the weights."""
        c = noise_embedding(log_snr).to(device=self.weight.device, dtype=self.weight.dtype)
        phase = c[:, None] * self.frequencies.to(self.weight.dtype)
        # No matrix product, which mixed precision would round to eight bits.
        u: Tensor = (torch.cat([phase.sin(), phase.cos()], dim=1) * self.weight).sum(1) + self.bias
        return u
