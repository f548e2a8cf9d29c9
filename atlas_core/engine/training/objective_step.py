"""What one training step computes: the module that Accelerate wraps, so that all of it is cast and reduced alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from torch import Tensor, nn

from atlas_core.contracts import Batch, Condition, NoiseSource, Objective


class ObjectiveStep(nn.Module):
    """Encodes the conditions, drops some of them, and asks the objective for the loss.

    The conditioner runs in here since its parameters are trained with the network's: outside, ranks would not share
    its gradient and mixed precision would not reach it.
    """

    def __init__(self, networks: Mapping[str, nn.Module], objective: Objective) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(dict(networks))
        self.objective = objective
        self._conditioner = next(
            (c for n in networks.values() if (c := getattr(n, "conditioner", None)) is not None), None
        )

    def forward(self, batch: Batch, noise: NoiseSource, drop: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (b,) of each row and further numbers; `batch.condition` holds raw inputs, one a row."""
        condition = self._condition(batch, noise, drop)
        networks: Any = dict(self.networks.items())
        output = self.objective.loss(networks, attrs.evolve(batch, condition=condition), noise)
        return output.per_sample, output.logs

    def _condition(self, batch: Batch, noise: NoiseSource, drop: bool) -> Condition | None:
        conditioner = self._conditioner
        if conditioner is None:
            return None
        inputs: Sequence[Any] = batch.condition
        condition: Condition = conditioner.encode(inputs).to(batch.x.device)
        if drop and conditioner.dropout > 0:
            keep = noise.uniform("condition-drop", batch.step) >= conditioner.dropout
            condition = condition.drop(keep, conditioner.null(len(inputs)).to(batch.x.device))
        return condition

    def parts(self) -> dict[str, nn.Module]:
        """Return the trained modules by the name under which a checkpoint stores them."""
        parts: dict[str, nn.Module] = dict(self.networks.items())
        if isinstance(self.objective, nn.Module):
            parts["objective"] = self.objective
        return parts
