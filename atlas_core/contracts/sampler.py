"""The kind `sampler`: integrates the generative dynamics, one step at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import attrs

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.contracts.denoiser import Denoiser
    from atlas_core.contracts.noise import NoiseSource


@attrs.frozen(eq=False)
class Step:
    """What a sampler yields after each step: enough to draw, stream or stop."""

    index: int
    t: float
    x: Tensor
    """State at time t, (b, *item)."""
    x0: Tensor | None
    """The step's first prediction of clean data, (b, *item); None for dynamics."""


@runtime_checkable
class Sampler(Protocol):
    """Progress, preview, streaming and cancel come free with the generator.

    One method is optional: `sample(denoiser, x, times, *, noise=None) -> Tensor`; without it the engine drains `steps`.
    """

    accepts: frozenset[str]
    """What it integrates: {"denoiser"}, {"dynamics"}, {"flow-map"} or {"endpoint"}: see `Objective.trains`."""
    stochastic: bool
    """True: `steps` needs a noise source."""

    def steps(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, noise: NoiseSource | None = None
    ) -> Iterator[Step]:
        """Integrate x (b, *item) along times (n + 1,) float64 on the CPU, decreasing; yields n steps.

        Raises ValueError if the sampler is stochastic and there is no noise source.
        """
        ...

    def nfe(self, steps: int) -> int | None:
        """Calls of the denoiser in `steps` steps that end at t = 0; None: adaptive."""
        ...
