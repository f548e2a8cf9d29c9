"""The sampler `dpm-adaptive`."""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs
import torch
from attrs.validators import and_, gt, lt
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource, Step
from atlas_solvers_builtin.processes.gaussian import like

_LEAST_STEP = 1e-5
"""In λ: the rounding of float32 changes more than a smaller step does."""


@attrs.frozen
class DPMAdaptive:
    """Let every sample choose its own steps by the error it makes: order 3, three calls a step, two if it is repeated.

    In λ = ½ log-SNR, with D_r = x̂₀ at λ_s + r h, each at the state that the lines before lead to, and
    line(r) = keep · x_s + pull · (D_0 + w/r · (D_r − D_0)) the exact solution for the line through D_0 and D_r
    (w = 1/(1 − e^−h) − 1/h),

        to λ_s + ⅓h by D_0;  to λ_s + ⅔h by D_0 and D_⅓;  x_t = line(⅔), of order 3;  error = x_t − line(⅓).

    A step is accepted if the root mean square of its error over the sample is at most tolerance · √(α_t² + σ_t²); the
    next h is 0.9 (tolerance/error)^⅓ times this one, within a factor of 4. Nothing of one sample enters the steps of
    another.

    Times are where the samples wait for each other: one step from noise to data is enough, more only cost calls. Out of
    pure noise the first step leads to σ/α = max(80, 3/√tolerance), before x̂₀ has changed; the last starts at t_min.
    """

    paper = "Lu et al. 2022 (DPM-Solver), appendix C, with the data prediction of Lu et al. 2022 (DPM-Solver++)"
    accepts = frozenset({"denoiser"})
    stochastic = False

    tolerance: float = attrs.field(
        default=1e-2,
        validator=and_(gt(0), lt(1)),
        metadata={"help": "Error of a step, in units of noisy data, √(α² + σ²); the result is about as wrong."},
    )

    def nfe(self, steps: int) -> int | None:
        """None: as many calls as the tolerance takes."""
        return None

    def steps(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, noise: NoiseSource | None = None
    ) -> Iterator[Step]:
        """Integrate x (b, *item) along times (n + 1,).

        Raises ValueError, naming the sample and the time, where a prediction is not finite or the tolerance cannot be
        met; what the denoiser's `take` raises, as UsageError for a guidance with a state.
        """
        walk = _Walk(denoiser, x, times[0], self.tolerance)
        for index, end in enumerate(times[1:]):
            x0 = walk.prediction()
            for stop in _stops(denoiser, times[index], end, self.tolerance):
                walk.jump(stop.t) if stop.at_once else walk.integrate(stop.t)
            yield Step(index, float(end), walk.x, x0)


@attrs.frozen(eq=False)
class _Stop:
    """A time that all samples go to: in one step of first order, or in as many as they need."""

    t: Tensor
    at_once: bool = False


def _stops(denoiser: Denoiser, start: Tensor, end: Tensor, tolerance: float) -> list[_Stop]:
    """Return the parts of the way from start to end: λ must be finite where steps are chosen."""
    process, stops = denoiser.process, []
    if float(process.alpha(start)) == 0:
        level = torch.tensor(max(80.0, 3 / math.sqrt(tolerance)), dtype=torch.float64)
        stops.append(_Stop(torch.maximum(process.time_of_log_snr(-2 * level.log()), end), at_once=True))
    into_data = float(process.sigma(end)) == 0
    last = torch.tensor(process.t_min, dtype=torch.float64) if into_data else end
    if last < (stops[-1].t if stops else start):
        stops.append(_Stop(last))
    return [*stops, _Stop(end, at_once=True)] if into_data and float(stops[-1].t if stops else start) > 0 else stops


class _Walk:
    """Samples on their way, each at a time and with a step of its own."""

    def __init__(self, denoiser: Denoiser, x: Tensor, start: Tensor, tolerance: float) -> None:
        rows = len(x)
        self.x = x.clone()  # rows of it are replaced in place
        self._denoiser, self._process, self._tolerance = denoiser, denoiser.process, tolerance
        self._time = start
        self._h = torch.full((rows,), 0.5, dtype=torch.float64)
        self._x0 = torch.empty_like(x)
        self._known = torch.zeros(rows, dtype=torch.bool)
        self._taken: tuple[Tensor, Denoiser] | None = None

    def prediction(self) -> Tensor:
        """Return x̂₀ of all samples, which are at one time."""
        rows = (~self._known).nonzero().flatten()
        if len(rows):
            self._predict(rows, self._time.expand(len(rows)))
        return self._x0.clone()

    def jump(self, end: Tensor) -> None:
        """Take one step of first order to `end`."""
        x0 = self.prediction()
        keep, pull = self._process.ode_step(self._time, end)
        self.x = float(keep) * self.x + float(pull) * x0
        self._time, self._known = end, torch.zeros_like(self._known)

    def integrate(self, end: Tensor) -> None:
        """Take as many steps as each sample needs to come to `end`."""
        target = self._process.log_snr(end) / 2
        at = (self._process.log_snr(self._time) / 2).repeat(len(self.x))
        self.x = self.x.clone()  # the last has been yielded
        while len(rows := (at < target).nonzero().flatten()):
            left = target - at[rows]
            h = torch.minimum(self._h[rows], left)
            moved, error = self._attempt(rows, at[rows], h)
            self._check(rows, at[rows], h, error)
            good, whole = error <= self._tolerance, h == left
            done = rows[good]
            self.x[done.to(self.x.device)] = moved[good.to(self.x.device)]
            self._known[done] = False
            at[done] = torch.where(whole, target, at[rows] + h)[good]
            after = h * (0.9 * (self._tolerance / error).pow(1 / 3)).clamp(0.25, 4.0)
            # A step that `end` cut short says little about the next one.
            self._h[rows] = torch.where(good & whole, torch.maximum(after, self._h[rows]), after)
        self._time = end

    def _attempt(self, rows: Tensor, at: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Take a step of h (r,) in λ from λ = `at` (r,) -> the state (r, *item) and its error (r,) on the CPU."""
        new = ~self._known[rows]
        if bool(new.any()):
            self._predict(rows[new], self._when(at[new]))
        place = rows.to(self.x.device)
        x, x0, s = self.x[place], self._x0[place], self._when(at)

        def line(part: float, node: float = 1.0, ahead: Tensor | None = None) -> Tensor:
            """The state at λ_s + part · h by the line through x̂₀ at λ_s and `ahead` at node · part · h."""
            span = part * h
            keep, pull = self._process.ode_step(s, self._when(at + span))
            mean = x0 if ahead is None else x0 + like((-1 / torch.expm1(-span) - 1 / span) / node, x) * (ahead - x0)
            return like(keep, x) * x + like(pull, x) * mean

        third = self._call(rows, line(1 / 3), self._when(at + h / 3))
        two_thirds = self._call(rows, line(2 / 3, 1 / 2, third), self._when(at + 2 / 3 * h))
        moved = line(1.0, 2 / 3, two_thirds)
        error = (moved - line(1.0, 1 / 3, third)).double().square().flatten(1).mean(1).sqrt().cpu()
        t = self._when(at + h)
        return moved, error / torch.hypot(self._process.alpha(t), self._process.sigma(t))

    def _when(self, half_log_snr: Tensor) -> Tensor:
        return self._process.time_of_log_snr(2 * half_log_snr)

    def _predict(self, rows: Tensor, t: Tensor) -> None:
        place = rows.to(self.x.device)
        self._x0[place] = self._call(rows, self.x[place], t)
        self._known[rows] = True

    def _call(self, rows: Tensor, x: Tensor, t: Tensor) -> Tensor:
        if self._taken is None or not torch.equal(self._taken[0], rows):
            self._taken = rows, self._denoiser.take(rows)
        return self._taken[1](x, t)

    def _check(self, rows: Tensor, at: Tensor, h: Tensor, error: Tensor) -> None:
        """Raise ValueError for the first sample that cannot go on."""
        too_small = (error > self._tolerance) & (h < _LEAST_STEP)
        for bad, why in (
            (~error.isfinite(), "the prediction is not finite"),
            (too_small, f"no step meets the tolerance {self._tolerance:g}: raise it"),
        ):
            if bool(bad.any()):
                first = int(bad.nonzero()[0])
                t = float(self._when(at[first]))
                raise ValueError(f"dpm-adaptive: sample {int(rows[first])} of the batch at t = {t:.6g}: {why}")
