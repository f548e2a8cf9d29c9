"""The parametrization `diffusers`: a network that is told the time step."""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from attrs.validators import in_
from torch import Tensor

from atlas_core.contracts import Process

PREDICTIONS = ("epsilon", "v_prediction", "sample")


@attrs.frozen
class Timestep:
    """What the models of diffusers are given and say: x as it is, the time step, and noise, v or the sample itself.

    epsilon: x̂₀ = (x − σ F)/α; v_prediction: x̂₀ = α x − σ F; sample: x̂₀ = F.
    """

    paper = "Ho, Jain & Abbeel 2020, eq. 15; Salimans & Ho 2022, appendix D"

    prediction: Literal["epsilon", "v_prediction", "sample"] = attrs.field(
        default="epsilon", validator=in_(PREDICTIONS), metadata={"help": "prediction_type of the model's scheduler."}
    )

    def coefficients(self, process: Process, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Raises ValueError for a process that has no time steps."""
        timestep = getattr(process, "timestep", None)
        if timestep is None:
            raise ValueError(f"{type(process).__name__} has no time steps; the parametrization needs process diffusers")
        alpha, sigma = process.alpha(t), process.sigma(t)
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        skip, out = {
            "epsilon": (1 / alpha, -sigma / alpha),
            "v_prediction": (alpha, -sigma),
            "sample": (torch.where(sigma == 0, 1 / alpha, zero), torch.where(sigma == 0, zero, one)),
        }[self.prediction]
        return one, skip, out, timestep(t)
