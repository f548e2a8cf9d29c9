"""The model `unet`: a convolutional network for images that sees them at several resolutions at once."""

from __future__ import annotations

from typing import Any, Literal

import attrs
import torch
import torch.nn.functional as F  # noqa: N812
from attrs.validators import and_, deep_iterable, ge, gt, in_, instance_of, lt, min_len, optional
from torch import Tensor, channels_last, nn
from torch.utils.checkpoint import checkpoint

from atlas_core import derived
from atlas_core.contracts import Condition
from atlas_models_builtin.blocks import Attention, Down, ResidualBlock, Up, zeroed
from atlas_models_builtin.embedding import Embedding, refuse_other_shape


def _setting(default: Any, help: str, validator: Any = None) -> Any:
    return attrs.field(default=default, validator=validator, metadata={"help": help})


@attrs.frozen
class UNetConfig:
    """Sizes of a U-Net. Raises ValueError, naming the legal values, for sizes that do not fit each other."""

    shape: tuple[int, int, int] = derived("data.shape", help="Channels, height and width of an image.")
    condition_width: int = derived(
        "condition.vector", default=0, validator=ge(0), help="Width of the condition's vector; 0: unconditional."
    )
    jumps: bool = derived(
        "objective.jumps", default=False, help="Take the noise level that a step ends at, too, as a flow map does."
    )
    channels: int = _setting(64, "Feature maps of the finest level.", ge(1))
    multipliers: tuple[int, ...] = _setting(
        (1, 2),
        "Width of each level in units of `channels`; each further level has half the height and width.",
        and_(min_len(1), deep_iterable(and_(instance_of(int), ge(1)))),
    )
    blocks: int = _setting(2, "Residual blocks a level, on the way down and again on the way up.", ge(1))
    middle: int = _setting(1, "Residual blocks at the coarsest level between the two ways.", ge(0))
    attention: tuple[int, ...] = _setting(
        (-1,), "Levels with self-attention, 0 the finest, -1 the coarsest; its cost grows with the pixels squared."
    )
    heads: int = _setting(4, "Heads of each self-attention.", ge(1))
    embedding: int | None = _setting(
        None, "Width of the vector that carries noise level and condition; null: 4 × channels.", optional(ge(1))
    )
    groups: int = _setting(8, "Groups of each normalisation; divides the width of every level.", ge(1))
    dropout: float = _setting(0.0, "Part of the features that each block drops in training.", and_(ge(0), lt(1)))
    resample: Literal["conv", "pool"] = _setting(
        "conv", "Change of resolution: learned by convolutions, or mean and repetition.", in_(("conv", "pool"))
    )
    patch: int = _setting(1, "Side of the squares of pixels that are folded into channels at the input.", gt(0))
    checkpointing: bool = _setting(
        False, "Recompute each block in the backward pass instead of storing its insides: less memory, slower."
    )

    def __attrs_post_init__(self) -> None:
        self._check_shape()
        levels = len(self.multipliers)
        for width in self.widths:
            if width % self.groups:
                raise ValueError(
                    f"groups = {self.groups} does not divide a width of {width} (channels = {self.channels} × "
                    f"multipliers = {self.multipliers}); legal here: {_divisors(*self.widths)}"
                )
        for level in self.attention:
            if not -levels <= level < levels:
                raise ValueError(f"attention names level {level}; with {levels} multipliers: {-levels} to {levels - 1}")
            if self.widths[level] % self.heads:
                raise ValueError(
                    f"heads = {self.heads} does not divide the width {self.widths[level]} of level {level}; "
                    f"legal there: {_divisors(self.widths[level])}"
                )

    def _check_shape(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(
                f"shape = {self.shape} is no image (channels, height, width); for points there is the model mlp"
            )
        levels, (_, height, width) = len(self.multipliers), self.shape
        unit = self.patch * 2 ** (levels - 1)
        if height % unit or width % unit:
            most = next(n for n in range(levels, 0, -1) if not (height % 2 ** (n - 1) or width % 2 ** (n - 1)))
            raise ValueError(
                f"height and width of shape = {self.shape} have to be multiples of {unit} = patch × 2^(levels − 1) "
                f"with patch = {self.patch} and {levels} multipliers; for this shape, patch = 1 and at most {most} "
                f"multiplier{'s' * (most > 1)}, or {-(-height // unit) * unit} × {-(-width // unit) * unit} pixels"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Feature maps of each level, finest first."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    def attends(self, level: int) -> bool:
        """Whether the level, counted from the finest, has self-attention."""
        return level in self.attention or level - len(self.multipliers) in self.attention


def _divisors(*widths: int) -> str:
    return ", ".join(str(n) for n in range(1, min(widths) + 1) if not any(width % n for width in widths))


class Stage(nn.Module):
    """One residual block and the attention that follows it, recomputed in the backward pass if the config says so."""

    def __init__(self, config: UNetConfig, level: int, inputs: int) -> None:
        super().__init__()
        width, embedding = config.widths[level], config.embedding or 4 * config.channels
        self.recompute, self.random = config.checkpointing, config.dropout > 0
        self.block = ResidualBlock(inputs, width, embedding, config.groups, config.dropout)
        self.attention = Attention(width, config.heads, config.groups) if config.attends(level) else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if self.recompute and self.training:
            # The same dropout mask has to fall in the second forward pass; without dropout, saving RNG states is waste.
            recomputed: Tensor = checkpoint(
                self._run, x, embedding, use_reentrant=False, preserve_rng_state=self.random
            )
            return recomputed
        return self._run(x, embedding)

    def _run(self, x: Tensor, embedding: Tensor) -> Tensor:
        refined: Tensor = self.attention(self.block(x, embedding))
        return refined


class UNet(nn.Module):
    """Predict images from noisy images: detail from the fine levels, composition from the coarse ones.

    Encoder, middle and decoder of residual blocks that the noise level and the class modulate; each decoder block also
    sees the output of its mirror image in the encoder. The output is zero in a new network, so that x̂₀ = c_skip · x.
    """

    Config = UNetConfig
    paper = "Ho et al. 2020, app. B; Dhariwal & Nichol 2021, sec. 3"

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, coarsest = config.widths, len(config.widths) - 1
        folded = config.shape[0] * config.patch**2
        self.embedding = Embedding(config.embedding or 4 * config.channels, config.condition_width, config.jumps)
        self.stem = nn.Conv2d(folded, widths[0], 3, padding=1)
        # One entry a residual block; what changes the resolution is the identity but for the last block of a level.
        self.encoder, self.down = nn.ModuleList(), nn.ModuleList()
        self.decoder, self.up = nn.ModuleList(), nn.ModuleList()
        entering = widths[0]
        for level, width in enumerate(widths):
            for block in range(config.blocks):
                leaves = block == config.blocks - 1 and level < coarsest
                self.encoder.append(Stage(config, level, entering))
                self.down.append(Down(width, config.resample) if leaves else nn.Identity())
                entering = width
        self.middle = nn.ModuleList(Stage(config, coarsest, widths[-1]) for _ in range(config.middle))
        for level in reversed(range(len(widths))):
            for block in range(config.blocks):
                leaves = block == config.blocks - 1 and level > 0
                self.decoder.append(Stage(config, level, entering + widths[level]))
                entering = widths[level]
                self.up.append(Up(entering, widths[level - 1], config.resample) if leaves else nn.Identity())
            if level > 0 and config.resample == "conv":
                entering = widths[level - 1]
        self.norm = nn.GroupNorm(config.groups, widths[0])
        self.out = zeroed(nn.Conv2d(widths[0], folded, 3, padding=1))

    def forward(
        self, x: Tensor, c_noise: Tensor, condition: Condition | None = None, *, c_noise_end: Tensor | None = None
    ) -> Tensor:
        """Map x (b, c, h, w), c_noise (b,) and condition.vector (b, condition_width) to F (b, c, h, w).

        Raises ValueError for another image shape, for a condition that the network was not built for (or a missing
        one), and for c_noise_end (b,) without `jumps`.
        """
        refuse_other_shape(x, self.config.shape, "unet")
        embedding = self.embedding(c_noise, condition, c_noise_end)
        # Channels last: convolutions on a CPU take half the time, and tensor cores want it too.
        folded = F.pixel_unshuffle(x.to(self.stem.weight.dtype), self.config.patch)
        h = self.stem(folded.contiguous(memory_format=channels_last))
        skips: list[Tensor] = []
        for stage, down in zip(self.encoder, self.down, strict=True):
            h = stage(h, embedding)
            skips.append(h)
            h = down(h)
        for stage in self.middle:
            h = stage(h, embedding)
        for stage, up in zip(self.decoder, self.up, strict=True):
            h = up(stage(torch.cat([h, skips.pop()], dim=1), embedding))
        predicted = F.pixel_shuffle(self.out(F.silu(self.norm(h))), self.config.patch)
        return predicted.to(x.dtype).contiguous()
