"""The kind `objective`: the loss that a network is trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import attrs

from atlas_core.contracts.condition import Condition

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.contracts.dataset import Batch
    from atlas_core.contracts.noise import NoiseSource
    from atlas_core.contracts.parametrization import Parametrization
    from atlas_core.contracts.process import Process


class Network(Protocol):
    """One trained net, condition not bound: what objectives train (`atlas_core.engine.network.Network`)."""

    process: Process
    parametrization: Parametrization

    def raw(self, x: Tensor, t: Tensor, condition: Condition | None = None, *, t_end: Tensor | None = None) -> Tensor:
        """F itself: x (b, *item), t 0-d or (b,) float64 on the CPU -> (b, *item)."""
        ...

    def x0(self, x: Tensor, t: Tensor, condition: Condition | None = None, *, t_end: Tensor | None = None) -> Tensor:
        """x̂₀ = c_skip · x + c_out · F(c_in · x, c_noise)."""
        ...


@attrs.frozen(eq=False)
class LossOutput:
    """What an objective returns."""

    per_sample: Tensor
    """(b,): the loss of each row; the engine averages it."""
    logs: dict[str, Tensor] = attrs.field(factory=dict)
    """Further (b,) or 0-d numbers for `metrics.jsonl`, by name; detached."""


@runtime_checkable
class Objective(Protocol):
    """May be an `nn.Module`. The engine encodes and drops `batch.condition` inside the wrapped forward.

    One attribute is optional: `trains: frozenset[str]`, what a network is to samplers afterwards. Without it, that is
    {"denoiser"}, or {"dynamics"} where no network has that name; {"flow-map"} knows where any step from t to t_end
    leads, {"endpoint"} where the step from t to 0 does: models that derive `objective.jumps` then take c_noise_end.
    One method is optional, too: `check(process, parametrization)` raises ValueError where it has no meaning on them,
    so that it is refused before training.
    """

    networks: frozenset[str]
    """Names of the networks it trains: {"denoiser"}; a bridge: {"velocity", "score"}."""
    couples_batch: bool
    """True with a coupling: solved over the global batch; else sample i of a batch never depends on sample j.

    With the methods of `CoupledObjective` it trains on any number of ranks and micro-batches; without, on one batch."""

    def loss(self, networks: Mapping[str, Network], batch: Batch, noise: NoiseSource) -> LossOutput:
        """Return the loss of each row; every random draw comes from `noise`, at `batch.step`."""
        ...


@runtime_checkable
class CoupledObjective(Objective, Protocol):
    """One whose `couples_batch` may be True: before the loss the engine pairs both ends, over ranks and micro-batches.

    Each rank calls `source` for its rows; one calls `pairs` for all of them, in float32 outside mixed precision, on
    the training's device. `loss` then sees `batch.source`, paired.
    """

    def source(self, batch: Batch, noise: NoiseSource) -> Tensor:
        """Return the t = 1 end of each row, (b, *item), not yet paired; row i depends on row i alone."""
        ...

    def pairs(self, batch: Batch, noise: NoiseSource) -> Tensor:
        """Return, for each row of the global batch, the row (b,), int64, of `batch.source` that it is paired with.

        `batch.condition` holds the raw conditions, one a row, as the dataset has them.
        """
        ...
