"""What is done on one plan: sweeps while they mend single points, then Newton steps."""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_solvers_builtin.transport.balanced.newton import newton_step
from atlas_solvers_builtin.transport.balanced.progress import Pace, Progress
from atlas_solvers_builtin.transport.balanced.sweeps import Local, Scalings, sweep

FAST = 0.1
"""What a sweep must leave of the error, at most, to be worth more than a Newton step."""


def improve(
    local: Local, pace: Pace, progress: Progress, group: Tensor, target: Tensor
) -> tuple[Scalings, Tensor, Tensor | None]:
    """Sweeps, then Newton steps, of the problems of `group` (*batch,) on one plan.

    Also return which reached `target`, and which could make no sweep, None if there are none. The host looks once
    between two blocks of sweeps or Newton steps.
    """
    at = local.start()
    progress.matvecs += 1
    progress.spent += group
    swept = torch.zeros_like(progress.spent)
    stuck, broken = torch.zeros_like(group), torch.zeros_like(group)
    first = at.error
    made: list[Tensor] = []
    while True:
        active = group & ~stuck & (at.error > target) & local.in_range(at) & (progress.spent < pace.max_iterations)
        ready = _ready_for_newton(local, at, first, swept, progress.rate, pace)
        seen = [(active & ~ready).any(), (active & ready).any(), broken.any(), *made]
        sweeping, stepping, any_broken, *told = torch.stack([each.to(at.error.dtype) for each in seen]).tolist()
        if told:
            progress.history.append(told[0])
            progress.matvecs += round(told[1])
        before = at.error
        if sweeping:
            going = active & ~ready
            at, sweeps = sweep(local, at, going, target, count=pace.check_every)
            broken = broken | going & (sweeps == 0)
            stuck = stuck | broken
            if not pace.newton:
                # Errors of sweeps never grow but by rounding: the next plan's products are of smaller differences.
                stuck = stuck | going & (local.exact > 0) & (at.error >= before)
            latest = (at.error / before) ** (1 / sweeps.clamp(min=1))
            progress.rate = torch.where(going & (sweeps > 0), latest, progress.rate)
            swept, progress.spent = swept + sweeps, progress.spent + sweeps
            products = torch.full_like(swept, 2 * pace.check_every)
        elif stepping:
            going = active & ready
            goal = torch.maximum(target / 2, _forcing(before) * before)
            limit = (pace.max_iterations - progress.spent).clamp(min=1)
            step = newton_step(local, at, going, goal, limit=limit, check_every=pace.check_every)
            at = step.at
            products = torch.where(going, step.products, 0)
            progress.spent = progress.spent + products
            products = 2 * products
            stuck = stuck | going & (~step.moved | (at.error > 0.9 * before) & (local.exact > 0))
        else:
            return at, group & (at.error <= target), broken if any_broken else None
        made = [torch.where(going, at.error, -torch.inf).amax(), products.amax()]


def _ready_for_newton(local: Local, at: Scalings, first: Tensor, swept: Tensor, rate: Tensor, pace: Pace) -> Tensor:
    """Sweeps pay while they mend single points; Newton steps, once the errors are collective."""
    if not pace.newton:
        return torch.zeros_like(swept, dtype=torch.bool)
    settled = ((swept >= 3) & (at.error < 0.05) | (local.exact > 0) & (first < 0.01)) & (rate > FAST)
    return settled | (swept >= pace.sweeps) & (at.error < 0.3) | (swept >= 5 * pace.sweeps)


def _forcing(error: Tensor) -> Tensor:
    """How far a Newton step reduces its linear residual: more is lost on what the model leaves out."""
    return error.sqrt().clamp(min=0.02, max=0.1)
