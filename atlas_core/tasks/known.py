"""Sampling that respects what is already known of the sample: a denoiser, and the task that walks with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import torch

from atlas_core.asked import check_whole
from atlas_core.engine.task import Task
from atlas_core.tasks.resampling import back_and_forth

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.contracts import Denoiser, NoiseSource, Process, Sampler, Step


class Known(Protocol):
    """Linear knowledge A x₀ = y, one row a sample."""

    def project(self, x0: Tensor) -> Tensor:
        """Return x₀ + A⁺(y − A x₀): the closest sample that agrees."""
        ...

    def take(self, index: Tensor) -> Known:
        """Return the rows `index`, which may repeat."""
        ...


class KnowingDenoiser:
    """Predict as the denoiser does, but for what is known: x̂₀ ← x̂₀ + A⁺(y − A x̂₀) (Wang et al. 2023, eq. 12).

    A sampler's step is linear in x and x̂₀ with the coefficients of the process, so that what is known follows
    α y + σ z exactly: no state has to be overwritten, and every sampler stays what it is.
    """

    process: Process

    def __init__(self, denoiser: Denoiser, known: Known) -> None:
        self.process = denoiser.process
        self._denoiser = denoiser
        self._known = known

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x (b, *item), t 0-d or (b,) -> (b, *item)."""
        return self._known.project(self._denoiser(x, t))

    def take(self, index: Tensor) -> KnowingDenoiser:
        """Return the denoiser of the rows `index`, with what is known of them."""
        return KnowingDenoiser(self._denoiser.take(index), self._known.take(index))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)


@attrs.frozen(slots=False, eq=False)
class WithKnown(Task):
    """Draw from nothing what agrees with `known`, in `passes` over every `stride` steps."""

    known: Known
    passes: int = 1
    stride: int = 3

    def wrap(self, denoiser: Denoiser, rows: slice) -> Denoiser:
        """Bind what is known of these rows."""
        return KnowingDenoiser(denoiser, self.known.take(torch.arange(rows.start, rows.stop)))

    def start(self, process: Process, noise: NoiseSource, like: Tensor, t: float, rows: slice) -> Tensor:
        """Return α y + σ z for what is known, and the prior for the rest: what a whole sample has at time t."""
        known = self.known.take(torch.arange(rows.start, rows.stop)).project(torch.zeros_like(like))
        alpha = float(process.alpha(torch.tensor(t, dtype=torch.float64)))
        return super().start(process, noise, like, t, rows).add(known, alpha=alpha)

    def walk(
        self, sampler: Sampler, denoiser: Denoiser, x: Tensor, times: Tensor, noise: NoiseSource
    ) -> Iterator[Step]:
        """Walk the steps once, or back and forth."""
        return back_and_forth(sampler, denoiser, x, times, noise, passes=self.passes, stride=self.stride)


def check_passes(passes: int) -> None:
    """Raise UsageError for less than one pass."""
    check_whole("passes", passes, least=1)
