"""Walking back and forth, so that what is drawn comes to agree with what is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from atlas_core.contracts import Step

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.contracts import Denoiser, NoiseSource, Process, Sampler


def back_and_forth(
    sampler: Sampler, denoiser: Denoiser, x: Tensor, times: Tensor, noise: NoiseSource, *, passes: int, stride: int
) -> Iterator[Step]:
    """Walk each `stride` steps `passes` times, adding between them the noise that they took away.

    The states of one noise level become a Markov chain whose samples agree ever better (Lugmayr et al. 2022, alg. 1).
    One pass is the sampler's own walk. Yields one step an interval of `times`, that of the last pass.
    """
    if passes == 1:
        yield from sampler.steps(denoiser, x, times, noise=noise)
        return
    steps = len(times) - 1
    for first in range(0, steps, stride):
        part = times[first : first + stride + 1]
        for turn in range(passes):
            if turn:
                x = forward(denoiser.process, x, part[-1], part[0], noise, first * passes + turn)
            done = list(sampler.steps(denoiser, x, part, noise=Apart(noise, f"{first}.{turn}")))
            x = done[-1].x
        yield from (Step(first + step.index, step.t, step.x, step.x0) for step in done)


def forward(process: Process, x: Tensor, t: Tensor, s: Tensor, noise: NoiseSource, step: int) -> Tensor:
    """Add noise: x (b, *item) at time t becomes a sample of p(x_s | x_t), s > t."""
    ratio = process.alpha(s) / process.alpha(t)
    std = (process.sigma(s) ** 2 - (ratio * process.sigma(t)) ** 2).clamp(min=0).sqrt()
    return x.mul(float(ratio)).add(noise.normal("back", step, x), alpha=float(std))


class Apart:
    """The noise of one part of a walk: steps are counted anew in each, and must not get the same numbers."""

    def __init__(self, noise: NoiseSource, part: str) -> None:
        self._noise = noise
        self._part = part
        self.rows = noise.rows

    def select(self, rows: Tensor) -> Apart:
        return Apart(self._noise.select(rows), self._part)

    def normal(self, purpose: str, step: int, like: Tensor) -> Tensor:
        return self._noise.normal(f"{purpose} {self._part}", step, like)

    def uniform(self, purpose: str, step: int, shape: tuple[int, ...] = ()) -> Tensor:
        return self._noise.uniform(f"{purpose} {self._part}", step, shape)

    def brownian(self, purpose: str, u0: float, u1: float, like: Tensor) -> Tensor:
        return self._noise.brownian(f"{purpose} {self._part}", u0, u1, like)
