"""The layers of the U-Net: residual block, self-attention, change of resolution."""

from __future__ import annotations

from typing import TypeVar

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class ResidualBlock(nn.Module):
    """Refine features x at the noise level and condition that the embedding carries.

    x ↦ skip(x) + conv₂(silu((1 + s) · norm(conv₁(silu(norm x))) + b)) with (s, b) linear in the embedding
    (Dhariwal & Nichol 2021, "adaptive group normalisation"). conv₂ starts at zero, so that a new network of any depth
    starts as the identity.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (b, inputs, h, w), (b, embedding) to (b, outputs, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        h = F.silu(self.norm2(h) * (1 + scale) + shift)
        refined: Tensor = self.skip(x) + self.conv2(self.dropout(h))
        return refined


class Attention(nn.Module):
    """Let every pixel look at every other: x + W_o softmax(q kᵀ / √d) v, over h·w tokens, with W_o zero at first.

    Vaswani et al. 2017, eq. 1; `scaled_dot_product_attention` never stores the h·w × h·w scores where a fused kernel
    exists.
    """

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) to (b, c, h, w)."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        # (b, l, 3 · heads · d) -> three of (b, heads, l, d)
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        attended: Tensor = self.out(mixed).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + attended


class Down(nn.Module):
    """Halve height and width: by a strided convolution, or by the mean of 2 × 2 pixels."""

    def __init__(self, channels: int, resample: str) -> None:
        super().__init__()
        self.layer: nn.Module = (
            nn.Conv2d(channels, channels, 3, stride=2, padding=1) if resample == "conv" else nn.AvgPool2d(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) to (b, c, h / 2, w / 2)."""
        halved: Tensor = self.layer(x)
        return halved


class Up(nn.Module):
    """Double height and width by repeating pixels; where resampling is learned, a convolution then smooths them."""

    def __init__(self, inputs: int, outputs: int, resample: str) -> None:
        super().__init__()
        self.layer: nn.Module = nn.Conv2d(inputs, outputs, 3, padding=1) if resample == "conv" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, inputs, h, w) to (b, outputs, 2 h, 2 w); without convolution, inputs stay."""
        doubled: Tensor = self.layer(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return doubled


def zeroed(layer: Layer) -> Layer:
    """Set a layer's weights to zero, so that what it feeds starts without it."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
