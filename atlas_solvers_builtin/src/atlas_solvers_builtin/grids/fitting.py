"""Find the noise levels at which a sampler of few calls comes closest to what it reaches with many."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Denoiser, Grid, Sampler, starting_at
from atlas_solvers_builtin.grids.levels import level_range, times_of_levels

Levels = Tensor
"""(steps,) float64: ln(σ/α) where each step starts, decreasing; the last step ends at the data."""

CENTERS = (-2.5, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5)
SCALES = (0.8, 1.25, 1.9)
ENDS = (0.35, 0.7, 1.4)
"""A family of grids to start from: logistic in ln(σ/α), the last level about `end` / steps^1.15."""


@attrs.frozen
class Fit:
    """Levels with what they reach."""

    levels: Levels
    error: float
    """Root mean square distance from the teacher's endpoint, a value."""
    before: float
    """The same on the grid that it is compared with."""
    calls: int
    """Calls of the denoiser that it took, each with all samples."""


class Fitting:
    """Least squares for the levels of one sampler on one denoiser, from given start states.

    The teacher is the sampler itself on a fine grid. A family of grids gives the start; then Levenberg–Marquardt moves
    every level but the first, with derivatives by finite differences: `steps` runs of the sampler each. So what is
    fitted is the error at the end, of this sampler, not a proxy for it.
    """

    def __init__(self, denoiser: Denoiser, sampler: Sampler, x: Tensor, start: float, grid: Grid) -> None:
        """x: (b, *item) at time `start`; `grid`: what the teacher walks, and what the fit is compared with."""
        self.calls = 0
        self._process = denoiser.process
        self._denoiser = denoiser
        self._sampler = sampler
        self._x = x
        self._bounded = starting_at(denoiser.process, start)
        self._grid = grid
        self._range = level_range(self._bounded, math.inf)

    def run(self, steps: int, *, teacher: int, seconds: float, rounds: int) -> Fit:
        """Fit a grid of `steps`; stop after `rounds` of least squares or when `seconds` are over."""
        deadline = time.monotonic() + seconds
        fine = self._end(self._grid.times(self._bounded, teacher))

        def residual(levels: Levels) -> Tensor:
            return (self._end(self.times(levels)) - fine).flatten().double() / math.sqrt(fine.numel())

        usual = self._grid.times(self._bounded, steps)
        before = float((self._end(usual) - fine).double().square().mean().sqrt())
        best, error = self._levels_of(usual), before
        for levels in self._family(steps):
            if time.monotonic() > deadline:
                break
            found = float(residual(levels).norm())
            if found < error:
                best, error = levels, found
        best = _least_squares(residual, best, deadline, rounds)
        error = float(residual(best).norm())
        return Fit(best, min(error, before), before, self.calls)

    def times(self, levels: Levels) -> Tensor:
        """(steps,) levels -> (steps + 1,) times."""
        return times_of_levels(self._bounded, torch.exp(levels))

    def _end(self, times: Tensor) -> Tensor:
        self.calls += self._sampler.nfe(len(times) - 1) or 0
        *_, last = self._sampler.steps(self._denoiser, self._x, times)
        return last.x

    def _levels_of(self, times: Tensor) -> Levels:
        levels: Tensor = -self._process.log_snr(times[:-1]) / 2
        if not bool(levels[0].isfinite()):  # pure noise, which the first level stands for wherever it is
            levels[0] = math.log(80.0)
        return levels

    def _family(self, steps: int) -> Iterator[Levels]:
        lowest, highest = self._range
        top = min(highest, 80.0)
        for center in CENTERS:
            for scale in SCALES:
                for end in ENDS:
                    last = max(lowest, min(end / steps**1.15, 0.3))
                    u = torch.linspace(_squash(top, center, scale), _squash(last, center, scale), steps).double()
                    levels = center + scale * torch.logit(u)
                    levels[0] = math.log(top)
                    yield levels


def _squash(level: float, center: float, scale: float) -> float:
    return 1 / (1 + math.exp(-(math.log(level) - center) / scale))


def _least_squares(
    residual: Callable[[Levels], Tensor], levels: Levels, deadline: float, rounds: int, step: float = 1e-3
) -> Levels:
    """Levenberg–Marquardt in the logarithms of the gaps, which keeps levels in order; the first level stays."""
    if len(levels) < 2:
        return levels
    first = levels[:1]

    def of(gaps: Tensor) -> Levels:
        return torch.cat([first, first - torch.exp(gaps).cumsum(0)])

    gaps = torch.log(-levels.diff())
    r, damping = residual(levels), 1e-2
    for _ in range(rounds):
        columns = []
        for i in range(len(gaps)):
            if time.monotonic() > deadline:
                return of(gaps)
            moved = gaps.clone()
            moved[i] += step
            columns.append((residual(of(moved)) - r) / step)
        jacobian = torch.stack(columns, 1)
        normal, slope = jacobian.mT @ jacobian, jacobian.mT @ r
        for _ in range(6):
            change = torch.linalg.solve(normal + damping * torch.diag(normal.diagonal() + 1e-12), -slope)
            trial = gaps + change.clamp(-1, 1)
            new = residual(of(trial))
            if float(new.norm()) < float(r.norm()):
                break
            damping *= 4
        else:
            return of(gaps)
        gained = 1 - float(new.norm() / r.norm())
        gaps, r, damping = trial, new, damping / 4
        if gained < 2e-3:
            break
    return of(gaps)
