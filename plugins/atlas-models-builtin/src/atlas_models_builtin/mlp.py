"""The model `mlp`: a residual perceptron for points, and for images small enough to be read as points."""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch.nn.functional as F  # noqa: N812
from attrs.validators import and_, deep_iterable, ge, instance_of, lt, min_len
from torch import Tensor, nn

from atlas_core import derived
from atlas_core.contracts import Condition
from atlas_models_builtin.blocks import zeroed
from atlas_models_builtin.embedding import Embedding, refuse_other_shape


def _setting(default: Any, help: str, validator: Any = None) -> Any:
    return attrs.field(default=default, validator=validator, metadata={"help": help})


@attrs.frozen
class MLPConfig:
    """Sizes of a residual perceptron."""

    shape: tuple[int, ...] = derived(
        "data.shape",
        help="Shape of one item; images are flattened.",
        validator=and_(min_len(1), deep_iterable(and_(instance_of(int), ge(1)))),
    )
    condition_width: int = derived(
        "condition.vector", default=0, validator=ge(0), help="Width of the condition's vector; 0: unconditional."
    )
    jumps: bool = derived(
        "objective.jumps", default=False, help="Take the noise level that a step ends at, too, as a flow map does."
    )
    width: int = _setting(256, "Features of the residual stream and of each hidden layer.", ge(1))
    blocks: int = _setting(4, "Residual blocks of two layers each.", ge(1))
    embedding: int = _setting(128, "Width of the vector that carries noise level and condition.", ge(1))
    dropout: float = _setting(0.0, "Part of the features that each block drops in training.", and_(ge(0), lt(1)))


class MLPBlock(nn.Module):
    """Refine features at the noise level and condition that the embedding carries.

    x ↦ x + W₂ silu(W₁ ((1 + s) · norm(x) + b)) with (s, b) linear in the embedding (Peebles & Xie 2023, "adaptive layer
    normalisation"). W₂ starts at zero, so that a new network of any depth starts as the identity.
    """

    def __init__(self, width: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)  # the modulation is its gain and bias
        self.modulation = nn.Linear(embedding, 2 * width)
        self.inner = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.outer = zeroed(nn.Linear(width, width))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (b, width), (b, embedding) to (b, width)."""
        scale, shift = self.modulation(embedding).chunk(2, dim=1)
        h = F.silu(self.inner(self.norm(x) * (1 + scale) + shift))
        refined: Tensor = x + self.outer(self.dropout(h))
        return refined


class MLP(nn.Module):
    """Predict points from noisy points, whatever the shape of one item.

    The path from input to output that passes by the blocks is linear in x, with a gain that the noise level sets: the
    exact denoiser of a Gaussian is within reach of the first layer and the last. The output is zero in a new network.
    """

    Config = MLPConfig
    paper = "He et al. 2016; Peebles & Xie 2023, sec. 3.2"

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        items = math.prod(config.shape)
        self.embedding = Embedding(config.embedding, config.condition_width, config.jumps)
        self.stem = nn.Linear(items, config.width)
        self.blocks = nn.ModuleList(
            MLPBlock(config.width, config.embedding, config.dropout) for _ in range(config.blocks)
        )
        self.modulation = nn.Linear(config.embedding, 2 * config.width)
        self.out = zeroed(nn.Linear(config.width, items))

    def forward(
        self, x: Tensor, c_noise: Tensor, condition: Condition | None = None, *, c_noise_end: Tensor | None = None
    ) -> Tensor:
        """Map x (b, *item), c_noise (b,) and condition.vector (b, condition_width) to F (b, *item).

        Raises ValueError for another item shape, for a condition that the network was not built for (or a missing
        one), and for c_noise_end (b,) without `jumps`.
        """
        refuse_other_shape(x, self.config.shape, "mlp")
        embedding = F.silu(self.embedding(c_noise, condition, c_noise_end))
        h = self.stem(x.flatten(1).to(self.stem.weight.dtype))
        for block in self.blocks:
            h = block(h, embedding)
        scale, shift = self.modulation(embedding).chunk(2, dim=1)
        predicted: Tensor = self.out(h * (1 + scale) + shift)
        return predicted.view(x.shape).to(x.dtype)
