"""The model `diffusers-dit`."""

from __future__ import annotations

from typing import Any

import attrs
from torch import Tensor, nn

from atlas_core import derived
from atlas_core.contracts import Condition
from atlas_diffusers.class_index import labels_of
from atlas_diffusers.weights import made, refuse_other_size


@attrs.frozen
class DiTConfig:
    """Either settings of diffusers' DiTTransformer2DModel, or a folder with one."""

    shape: tuple[int, int, int] = derived("data.shape", help="Channels, height and width of an image or a latent.")
    condition_width: int = derived("condition.vector", default=0, help="1: the conditioner class-index.")
    weights: str | None = attrs.field(
        default=None,
        metadata={"help": "Folder of a model that diffusers saved, as DiT-XL-2-256/transformer; null: new."},
    )
    options: dict[str, Any] = attrs.field(
        factory=dict, metadata={"help": "Settings of DiTTransformer2DModel; its size comes from the data."}
    )

    @condition_width.validator
    def _classes(self, attribute: object, value: int) -> None:
        if value != 1:
            raise ValueError("a DiT is told the class: give the pipeline the conditioner class-index")

    @options.validator
    def _one_of_both(self, attribute: object, value: dict[str, Any]) -> None:
        if value and self.weights is not None:
            raise ValueError("options are those of a new model; the one in weights has its own")


class DiT(nn.Module):
    """DiTTransformer2DModel of diffusers, with its weights. A variance that it predicts, too, is not used."""

    Config = DiTConfig
    paper = "Peebles & Xie 2023"

    def __init__(self, config: DiTConfig) -> None:
        from diffusers import DiTTransformer2DModel

        super().__init__()
        self.config = config
        sizes = {"sample_size": config.shape[1], "in_channels": config.shape[0]}
        self.transformer = made(DiTTransformer2DModel, {**sizes, **config.options}, config.weights)
        known = self.transformer.config
        refuse_other_size(config.shape, known.in_channels, known.sample_size, "this DiT")

    def forward(
        self, x: Tensor, c_noise: Tensor, condition: Condition | None = None, *, c_noise_end: Tensor | None = None
    ) -> Tensor:
        """Map x (b, c, h, w) and time steps c_noise (b,) to F. Raises ValueError for c_noise_end."""
        if c_noise_end is not None:
            raise ValueError("diffusers-dit predicts at one time step and takes no c_noise_end")
        predicted: Tensor = self.transformer(x, timestep=c_noise, class_labels=labels_of(condition)).sample
        return predicted[:, : x.shape[1]]
