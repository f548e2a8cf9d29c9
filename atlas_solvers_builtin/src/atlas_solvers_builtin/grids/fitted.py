"""The grid `fitted`."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from typing import Any

import attrs
import torch
from attrs.validators import ge, gt, optional
from torch import Tensor

from atlas_core import component
from atlas_core.contracts import Denoiser, GridFit, Process, Sampler
from atlas_solvers_builtin.grids.fitting import Fitting
from atlas_solvers_builtin.grids.levels import check_steps, level_range, times_of_levels


def _increasing_noise(instance: object, attribute: Any, rows: tuple[tuple[float, ...], ...]) -> None:
    for row in rows:
        if not row or any(not math.isfinite(level) for level in row):
            raise ValueError("levels holds a row that is empty or not finite")
        if any(after >= before for before, after in pairwise(row)):
            raise ValueError(f"levels must decrease from noise to data in every row, as these do not: {row}")
    if len({len(row) for row in rows}) != len(rows):
        raise ValueError("levels holds two rows of one length: which is meant?")


@attrs.frozen
class Fitted:
    """Step where this network needs it: levels found from the network itself, for one sampler and a number of steps.

    Made by `atlas-core fit-grid RUN --steps 8`. The teacher is the sampler with many steps; the levels are moved, by
    least squares, until few steps end as close to the teacher as they can. Where nothing was fitted (another number of
    steps, a start from less noise), the times are those of `otherwise`.
    """

    paper = "the aim of Tong et al. 2025 (LD3), by Gauss-Newton with finite differences; Watson et al. 2021 before them"

    levels: tuple[tuple[float, ...], ...] = attrs.field(
        default=(),
        validator=_increasing_noise,
        metadata={"help": "ln(σ/α) at which each step starts, a row for each number of steps that was fitted."},
    )
    otherwise: Any = component(
        "grid",
        default="atlas-solvers-builtin:logistic-log-snr",
        help="Where nothing was fitted; the teacher's, too.",
    )
    teacher: int = attrs.field(default=200, validator=ge(2), metadata={"help": "Steps of the fine solution."})
    rounds: int = attrs.field(default=10, validator=ge(0), metadata={"help": "Rounds of least squares, at most."})
    seconds: float = attrs.field(default=50.0, validator=gt(0), metadata={"help": "Time to fit one grid in, about."})
    samples: int | None = attrs.field(
        default=None,
        validator=optional(ge(1)),
        metadata={"help": "Samples that a fit looks at; null: as many of those offered as the time allows."},
    )

    def times(self, process: Process, steps: int) -> Tensor:
        """Return (steps + 1,) times: the fitted ones, or those of `otherwise`. Raises ValueError before any fit."""
        check_steps(steps)
        if not self.levels:
            raise ValueError("no grid was fitted yet: atlas-core fit-grid RUN makes one")
        row = next((row for row in self.levels if len(row) == steps), None)
        # A process that is to start with less noise (image to image) has no use for the levels above.
        if row is None or math.log(level_range(process, math.inf)[1]) < row[0] - 1e-6:
            times: Tensor = self.otherwise.times(process, steps)
            return times
        return times_of_levels(process, torch.exp(torch.tensor(row, dtype=torch.float64)))

    def fit(self, denoiser: Denoiser, sampler: Sampler, x: Tensor, t: float, steps: int) -> GridFit:
        """Fit the levels of `steps` steps from states x (b, *item) at time t; return a grid that has them, too.

        Raises ValueError for a stochastic sampler, whose noise would be fitted, and for one of its own steps.
        """
        check_steps(steps)
        if sampler.stochastic:
            raise ValueError(f"{type(sampler).__name__} draws noise: fit the grid of a sampler that does not")
        if sampler.nfe(1) is None:
            raise ValueError(f"{type(sampler).__name__} chooses its own steps: there is no grid to fit")
        rows = self.samples or self._affordable(denoiser, sampler, x, t, steps)
        index = torch.arange(min(rows, len(x)))
        fitting = Fitting(denoiser.take(index), sampler, x[index.to(x.device)], t, self.otherwise)
        fit = fitting.run(steps, teacher=max(self.teacher, 8 * steps), seconds=self.seconds, rounds=self.rounds)
        others = (row for row in self.levels if len(row) != steps)
        levels = tuple(sorted((*others, tuple(fit.levels.tolist())), key=len))
        return GridFit(attrs.evolve(self, levels=levels), fit.before, fit.error, fit.calls, len(index))

    def _affordable(self, denoiser: Denoiser, sampler: Sampler, x: Tensor, t: float, steps: int) -> int:
        """Return the number of rows with which the whole fit would take about `seconds`, at least 16."""
        some = torch.arange(min(8, len(x)))
        few = denoiser.take(some)
        at = torch.tensor(t, dtype=torch.float64)
        few(x[some.to(x.device)], at)  # the first call may compile or allocate
        began = time.perf_counter()
        few(x[some.to(x.device)], at)
        a_row = (time.perf_counter() - began) / len(some)
        runs = 64 + self.rounds * (steps + 1)
        calls = (sampler.nfe(steps) or steps) * runs + (sampler.nfe(self.teacher) or self.teacher)
        return max(16, int(self.seconds / (a_row * calls)))
