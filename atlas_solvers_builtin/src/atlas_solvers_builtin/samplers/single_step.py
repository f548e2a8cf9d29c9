"""Samplers of order 2 that look twice in a step, over pairs of the grid's steps: as many calls as Euler has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import attrs
import torch
from attrs.validators import gt
from torch import Tensor

from atlas_core.contracts import Denoiser, Process, Step
from atlas_solvers_builtin.samplers.multistep_plan import half_log_snr
from atlas_solvers_builtin.samplers.safeguard import progress

Share = Callable[[float, float], float]
"""(h to the second look, h of the step, in λ) -> the share c of the second prediction; the first has 1 − c."""

REACH, REACH_OF_DATA, MOST = 0.12, 0.08, 1.05
"""Fitted to mixtures of Gaussians, with and without guidance, from 3 to 50 calls (`benchmarks/samplers.py`)."""


def reach_field(default: float = REACH) -> float:
    """Return the setting `reach` that single-step samplers share."""
    field: float = attrs.field(
        default=default,
        validator=gt(0),
        metadata={"help": "Share of the way to the data that a pair of steps may cover as one; 1: any, as published."},
    )
    return field


def pairs_field(default: bool) -> bool:
    """Return the setting `pairs` that single-step samplers share."""
    field: bool = attrs.field(
        default=default,
        metadata={
            "help": "Take the grid's steps in pairs, one call each; false: two calls in each step, as published."
        },
    )
    return field


@attrs.frozen
class Pair:
    """Two steps s → m → t: x_l by the first-order step, x_t = keep · x_s + pull · ((1 − c) x̂₀(s) + c x̂₀(l))."""

    to_middle: tuple[float, float]
    whole: tuple[float, float, float] | None = None
    """keep, pull (1 − c), pull c; None: two steps of first order, of which this is the first."""
    look: tuple[Tensor, float, float] | None = None
    """Time (), keep and pull of the second look l; None: it is in the middle."""


def pair_plan(process: Process, times: Tensor, share: Share, reach: float, *, at_end: bool = False) -> list[Pair]:
    """Return what begins at each of the n steps along times (n + 1,): a pair where there is room for one that pays.

    The last step stands alone, and if their number is even so does the first. c falls from what `share` says, where
    the pair covers no more than `reach` of the way from noise to data, to that of two first-order steps at twice that;
    and it is no more than 1.05, which is the error of the second prediction that it passes on. With `reach` = 1 it is
    what `share` says. A pair at infinite λ is two steps.

    With `at_end` the second look is at t rather than m, and moves from there to m, in λ, as c falls.
    """
    lambdas, count = half_log_snr(process, times), len(times) - 1
    single = list(zip(*(c.tolist() for c in process.ode_step(times[:-1], times[1:])), strict=True))
    double = list(zip(*(c.tolist() for c in process.ode_step(times[:-2], times[2:])), strict=True))
    plan = [Pair(step) for step in single]
    for index in range((count - 1) % 2, count - 1, 2):
        start, middle, end = lambdas[index : index + 3]
        if not math.isfinite(end - start):
            continue
        (keep, pull), second = double[index], share((end if at_end else middle) - start, end - start)
        part = 1.0
        if reach < 1:
            part = min(1.0, max(0.0, 2 - progress(start, end) / reach))
            euler = single[index + 1][1] / pull
            second = euler + part * (min(second, MOST) - euler)
        whole, look = (keep, pull * (1 - second), pull * second), None
        if at_end and part:
            look = _look(process, times[index : index + 3], middle + part * (end - middle), part)
        plan[index] = Pair(single[index], whole, look)
    return plan


def _look(process: Process, times: Tensor, at: float, part: float) -> tuple[Tensor, float, float]:
    """Return time, keep and pull of a look at λ = `at` from times (3,) of s, m and t; at t itself where part is 1."""
    time = times[2] if part == 1 else process.time_of_log_snr(torch.tensor(2 * at, dtype=times.dtype))
    keep, pull = process.ode_step(times[:1], time[None])
    return time, float(keep), float(pull)


def with_midpoints(process: Process, times: Tensor) -> Tensor:
    """Return (2 n,) times: those of n steps (n + 1,), with the middle in λ of each but the last.

    The middle of a step from pure noise, at infinite λ, is that in time.
    """
    log_snr = process.log_snr(times[:-1])
    halfway = (log_snr[:-1] + log_snr[1:]) / 2
    middle = torch.where(halfway.isfinite(), process.time_of_log_snr(halfway), (times[:-2] + times[1:-1]) / 2)
    return torch.cat([torch.stack([times[:-2], middle], 1).flatten(), times[-2:]])


def integrate(denoiser: Denoiser, x: Tensor, times: Tensor, plan: Sequence[Pair]) -> Iterator[Step]:
    """Walk x (b, *item) along times (n + 1,) by n steps, one call each."""
    moments, start, whole = times.tolist(), x, None
    first = x
    look: tuple[Tensor, float, float] | None = None
    for index, (s, pair) in enumerate(zip(times[:-1], plan, strict=True)):
        if whole is not None:
            at, when = (x, s) if look is None else (torch.add(start * look[1], first, alpha=look[2]), look[0])
            x0 = denoiser(at, when)
            x = torch.add(torch.add(start * whole[0], first, alpha=whole[1]), x0, alpha=whole[2])
            whole = None
        else:
            x0 = denoiser(x, s)
            start, first, whole, look = x, x0, pair.whole, pair.look
            x = torch.add(x * pair.to_middle[0], x0, alpha=pair.to_middle[1])
        yield Step(index, moments[index + 1], x, x0)


def take(denoiser: Denoiser, x: Tensor, times: Tensor, share: Share, *, reach: float, pairs: bool) -> Iterator[Step]:
    """Walk x (b, *item) along times (n + 1,): pairs of its steps, or each with its middle, for 2 n − 1 calls."""
    process = denoiser.process
    if pairs:
        yield from integrate(denoiser, x, times, pair_plan(process, times, share, reach))
        return
    fine = with_midpoints(process, times)
    first: Tensor | None = None
    for step in integrate(denoiser, x, fine, pair_plan(process, fine, share, reach)):
        first = step.x0 if first is None else first
        if step.index % 2 or step.index == len(fine) - 2:
            yield Step((step.index + 1) // 2 - (step.index % 2), step.t, step.x, first)
            first = None
