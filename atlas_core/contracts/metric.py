"""The kind `metric`: a number about generated data, held against real data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import attrs

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.contracts.dataset import Batch, DataSpec
    from atlas_core.contracts.noise import NoiseSource


@attrs.frozen
class MetricResult:
    """One line of a table of scores."""

    value: float
    n: int
    """Generated samples that the value is computed from."""
    features: str
    """What the samples were compared in: `pixels`, `classifier`, …"""
    floor: float | None = None
    """The value that the real training split reaches against the held-out one; filled in by the evaluation."""
    details: dict[str, float] = attrs.field(factory=dict)
    """Numbers beside the value, by name."""


@runtime_checkable
class Metric(Protocol):
    """Additive state, so that ranks merge without pickles. A metric is an `attrs` class that holds its own state.

    One method is optional: `fit(train: Batch, spec: DataSpec)` shows the metric the real training split once, before
    any update, on every rank alike: to train a classifier, or to know what copies would be copies of.
    """

    better: str
    """`lower`, `higher`, or `match`: the nearer to the floor the better."""

    def update(self, generated: Batch | None = None, real: Batch | None = None, *, index: Tensor | None = None) -> None:
        """Add samples; rows whose global `index` was seen before are padding, and dropped."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything that `compute` needs beyond what `fit` saw."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None: ...

    def merge(self, other: dict[str, Tensor]) -> None:
        """Add the state of another rank."""
        ...

    def compute(self) -> MetricResult:
        """Raises ValueError, with the number needed, if too few samples were seen."""
        ...


@runtime_checkable
class Baseline(Protocol):
    """The kind `baseline`: a simple generator that a table of scores is compared with.

    An `attrs` class that holds its own state.
    """

    def fit(self, train: Batch, spec: DataSpec) -> None:
        """Learn from the real training split; `train.condition` holds the raw labels, or None."""
        ...

    def sample(self, labels: Tensor | None, noise: NoiseSource) -> Tensor:
        """Draw one item a row of `noise`, of the given labels (n,), int64: -> (n, *item)."""
        ...
