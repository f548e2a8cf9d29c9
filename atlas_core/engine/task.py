"""What a task changes of plain sampling: where it starts, what the denoiser says, how the steps are walked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.contracts import Denoiser, NoiseSource, Process, Sampler, Step


class Task:
    """Plain sampling; a task replaces one of the methods, or more.

    `rows` are those of all samples that the batch at hand holds, so that a task can look up what belongs to them.
    """

    latest: float | None = None
    """The time to start at, where it is earlier than the process's own end."""
    earliest: float = 0.0
    """The time to stop at. Above 0 what comes back is still noisy, and not clamped to the range of the data."""

    def start(self, process: Process, noise: NoiseSource, like: Tensor, t: float, rows: slice) -> Tensor:
        """Return the state at time t that sampling starts from, of the shape, dtype and device of `like`."""
        return process.prior(noise.normal("prior", 0, like), t)

    def wrap(self, denoiser: Denoiser, rows: slice) -> Denoiser:
        """Return what the sampler sees instead of the denoiser."""
        return denoiser

    def walk(
        self, sampler: Sampler, denoiser: Denoiser, x: Tensor, times: Tensor, noise: NoiseSource
    ) -> Iterator[Step]:
        """Yield the steps from x (b, *item) at times[0] to times[-1]."""
        yield from sampler.steps(denoiser, x, times, noise=noise)


PLAIN = Task()
