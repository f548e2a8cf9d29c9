"""The model `diffusers-unet2d`."""

from __future__ import annotations

from typing import Any

import attrs
from torch import Tensor, nn

from atlas_core import derived
from atlas_core.contracts import Condition
from atlas_diffusers.class_index import labels_of
from atlas_diffusers.weights import made, refuse_other_size


@attrs.frozen
class UNet2DConfig:
    """Either settings of diffusers' UNet2DModel, or a folder with one."""

    shape: tuple[int, int, int] = derived("data.shape", help="Channels, height and width of an image.")
    condition_width: int = derived("condition.vector", default=0, help="1 with the conditioner class-index, else 0.")
    weights: str | None = attrs.field(
        default=None,
        metadata={"help": "Folder of a model that diffusers saved, as ddpm-cifar10/unet; null: a new one."},
    )
    options: dict[str, Any] = attrs.field(
        factory=dict, metadata={"help": "Settings of UNet2DModel, as block_out_channels; its size comes from the data."}
    )

    @options.validator
    def _one_of_both(self, attribute: object, value: dict[str, Any]) -> None:
        if value and self.weights is not None:
            raise ValueError("options are those of a new model; the one in weights has its own")


class UNet2D(nn.Module):
    """UNet2DModel of diffusers, with its weights: F(x, time step, class)."""

    Config = UNet2DConfig
    paper = "Ho, Jain & Abbeel 2020, appendix B, as diffusers writes it"

    def __init__(self, config: UNet2DConfig) -> None:
        from diffusers import UNet2DModel

        super().__init__()
        self.config = config
        channels, *size = config.shape
        sizes = {"sample_size": tuple(size), "in_channels": channels, "out_channels": channels}
        self.unet = made(UNet2DModel, {**sizes, **config.options}, config.weights)
        refuse_other_size(config.shape, self.unet.config.in_channels, self.unet.config.sample_size, "this UNet2DModel")

    def forward(
        self, x: Tensor, c_noise: Tensor, condition: Condition | None = None, *, c_noise_end: Tensor | None = None
    ) -> Tensor:
        """Map x (b, c, h, w) and time steps c_noise (b,) to F. Raises ValueError for c_noise_end."""
        if c_noise_end is not None:
            raise ValueError("diffusers-unet2d predicts at one time step and takes no c_noise_end")
        classes = labels_of(condition) if self.config.condition_width else None
        predicted: Tensor = self.unet(x, c_noise, class_labels=classes).sample
        return predicted
