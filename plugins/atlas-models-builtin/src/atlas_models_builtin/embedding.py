"""How a network is told the noise level and the condition: one vector a sample, which modulates every block."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from atlas_core.contracts import Condition
from atlas_models_builtin.blocks import zeroed

FREQUENCIES = 32
"""Sines and cosines each that describe the noise level."""
LONGEST_PERIOD, SHORTEST_PERIOD = 32.0, 0.5
"""Of c_noise = −log-SNR / 8, which lives within ±2. The shortest period turns over 4 of log-SNR and tells values apart
that differ by a few tenths, without making the network rough in between; waves longer than the range are nearly linear
in it, and give its overall trend."""


class Embedding(nn.Module):
    """Turn c_noise and the condition's vector into the vector that every block is modulated by.

    e = W₂ silu(W₁ [sin ωc, cos ωc] + b₁) + b₂ + W_y y, with ω geometric between the two periods. A sinusoid of period
    10,000 (Vaswani et al. 2017), made for token positions, would be constant over the range of a log-SNR.

    With `jumps` it is also told the level c' that a step ends at, by W_e ([sin ωc', cos ωc'] − [sin ωc, cos ωc]) inside
    the silu: a step that ends where it starts is the same as none, bit for bit. W_e is zero at first.
    """

    frequencies: Tensor

    def __init__(self, width: int, condition_width: int, jumps: bool = False) -> None:
        super().__init__()
        self.condition_width = condition_width
        slow, fast = math.log(2 * math.pi / LONGEST_PERIOD), math.log(2 * math.pi / SHORTEST_PERIOD)
        # Not saved: a constant of the architecture, no weight.
        self.register_buffer("frequencies", torch.linspace(slow, fast, FREQUENCIES).exp(), persistent=False)
        self.inner = nn.Linear(2 * FREQUENCIES, width)
        self.outer = nn.Linear(width, width)
        self.condition = nn.Linear(condition_width, width) if condition_width else None
        self.end = zeroed(nn.Linear(2 * FREQUENCIES, width, bias=False)) if jumps else None

    def forward(self, c_noise: Tensor, condition: Condition | None, c_noise_end: Tensor | None = None) -> Tensor:
        """Map c_noise (b,), condition.vector (b, condition_width) and c_noise_end (b,) to (b, width).

        Raises ValueError for a condition that the network was not built for, and for a missing one, and for an end
        without `jumps`.
        """
        waves = self._waves(c_noise)
        hidden = self.inner(waves)
        if c_noise_end is not None:
            if self.end is None:
                raise ValueError(
                    "this network was built with jumps = False and takes no c_noise_end: flow maps need jumps = True"
                )
            hidden = hidden + self.end(self._waves(c_noise_end) - waves)
        embedding: Tensor = self.outer(F.silu(hidden))
        if (vector := self._vector(condition)) is not None and self.condition is not None:
            embedding = embedding + self.condition(vector.to(embedding.dtype))
        return embedding

    def _waves(self, c_noise: Tensor) -> Tensor:
        # The phases reach ±25 (2 · 2π / 0.5): they are taken in float32 even where the network runs in half precision.
        phase = c_noise.float()[:, None] * self.frequencies.float()
        return torch.cat([phase.sin(), phase.cos()], dim=1).to(self.inner.weight.dtype)

    def _vector(self, condition: Condition | None) -> Tensor | None:
        for part in ("tokens", "image"):
            if condition is not None and getattr(condition, part) is not None:
                raise ValueError(f"this network takes a condition's vector only, and was given {part}")
        vector = None if condition is None else condition.vector
        if vector is None and self.condition_width:
            raise ValueError(
                f"the network was built with condition_width = {self.condition_width} and was given no vector; "
                "what says nothing is the conditioner's null condition"
            )
        if vector is not None and vector.shape[-1] != self.condition_width:
            raise ValueError(
                f"the condition's vector is {vector.shape[-1]} wide, the network was built with "
                f"condition_width = {self.condition_width}"
            )
        return vector


def refuse_other_shape(x: Tensor, shape: Sequence[int], name: str) -> None:
    """Raise ValueError for items of another shape than the network was built for."""
    if tuple(x.shape[1:]) != tuple(shape):
        raise ValueError(f"x is {tuple(x.shape)}; this {name} was built for (b, {', '.join(map(str, shape))})")
