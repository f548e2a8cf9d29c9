"""Rounds of absorption: the plan is built around the potentials, which are improved on it, until exact sums agree."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_solvers_builtin.transport.balanced.absorbed import Around, around
from atlas_solvers_builtin.transport.balanced.improving import improve
from atlas_solvers_builtin.transport.balanced.progress import (
    CONVERGED,
    MAX_ITERATIONS,
    NON_FINITE,
    RUNNING,
    STALLED,
    Pace,
    Progress,
)
from atlas_solvers_builtin.transport.balanced.scaling import Ladder
from atlas_solvers_builtin.transport.balanced.sweeps import COARSE, Local, Scalings
from atlas_solvers_builtin.transport.problem import Problem

FINE = 1e-3
"""Marginal error at the final ε from which exact sums are worth their price."""
COARSE_ENTRIES = 1e-4
"""Relative error that entries may have on the way there."""
SAFETY = 0.3
"""Share of the tolerance that is aimed at, since the last word is the exact sums'."""
DROPPED = 0.02
"""Share of the tolerance that entries left out of the kernel may add up to."""
CLOSE = 0.5
"""Marginal error below which no scaling is far from 1."""
RESCUES = 20
"""Sweeps in the log domain that a problem is granted before its kernel is held to be zero in a row."""
PATIENCE = 4
"""Rounds without a smaller error after which rounding is to blame."""


def solve_rounds(problem: Problem, ladder: Ladder, pace: Pace, progress: Progress) -> Progress:
    """Run rounds until every problem has a reason to stop; potentials are those of the smallest exact error."""
    while True:
        # What has run out of iterations is measured at its own ε, wherever on the way it is.
        coarse = progress.running & progress.coarse & (progress.spent < pace.max_iterations)
        any_coarse, any_running = torch.stack([coarse.any(), progress.running.any()]).tolist()
        if any_coarse:
            _coarse_round(problem, ladder, pace, progress, coarse)
        elif any_running:
            _exact_round(problem, pace, progress, ladder)
        else:
            return progress


def _coarse_round(problem: Problem, ladder: Ladder, pace: Pace, progress: Progress, group: Tensor) -> None:
    """At the present ε of each problem, in the precision of the ladder."""
    epsilon = ladder.epsilon(progress.stage)
    there = progress.there
    if there is None or not torch.equal(there.epsilon, epsilon):
        there = progress.there = problem.at(epsilon)
    accuracy = COARSE_ENTRIES if ladder.lower else None
    plan = around(there, progress.f, progress.g, storage=pace.storage, drop=DROPPED * FINE, accuracy=accuracy)
    progress.builds += 1
    if _rescued(there, plan, progress, group):
        return
    final = progress.stage == ladder.last
    # Sweeps alone may need any number to get there: what they reach is good enough for a start.
    budget = pace if pace.newton else attrs.evolve(pace, max_iterations=int(progress.spent.max()) + 10 * pace.sweeps)
    target = torch.where(final, FINE, COARSE).to(problem.mass.dtype)
    error = _error(there, plan)
    local = Local(plan, there, (error < CLOSE).to(error.dtype), even=pace.newton)
    at, done, broken = improve(local, budget, progress, group, target)
    del plan, local
    _absorb(there, progress, at, group)
    if broken is not None:
        _sweep_in_logarithms(there, progress, broken)
    progress.visits += group
    # A coarse ε is not worth more than a few rounds.
    onward = group & (done | (progress.visits >= 3) & ~final)
    exhausted = group & final & (progress.visits >= 12)
    ladder.advance(progress, onward & ~final)
    progress.coarse = progress.coarse & ~(onward & final) & ~exhausted


def _exact_round(problem: Problem, pace: Pace, progress: Progress, ladder: Ladder) -> None:
    """At the problems' own ε: measure, keep the best, and improve on it."""
    running = progress.running
    # As they are returned: to move the constant later would round them once more.
    progress.f, progress.g = problem.balanced(progress.f, progress.g)
    plan = around(problem, progress.f, progress.g, storage=pace.storage, drop=DROPPED * pace.tolerance)
    progress.builds += 1
    if _rescued(problem, plan, progress, running):
        return
    error = _error(problem, plan)
    _judge(progress, plan, error, running, pace)
    # A warm start that is far off goes the long way round.
    far = progress.running & progress.warm & (error > CLOSE) & ladder.has_coarse
    largest = torch.where(running, error, -torch.inf).amax()
    running = progress.running
    progress.warm = progress.warm & ~running
    seen = torch.stack([largest, far.any().to(largest), running.any().to(largest)])
    reached, any_far, any_running = seen.tolist()
    progress.history.append(reached)
    if any_far:
        progress.coarse = far
        progress.stage = torch.where(far, 0, progress.stage)
        return
    if not any_running:
        return
    exact = (error < CLOSE).to(error.dtype)
    target = torch.where(exact > 0, SAFETY * pace.tolerance, max(FINE, SAFETY * pace.tolerance)).to(error.dtype)
    local = Local(plan, problem, exact)
    at, _, broken = improve(local, pace, progress, running, target)
    certain = running & (at.error + local.uncertainty(at, DROPPED * pace.tolerance) <= pace.tolerance)
    del plan, local
    _absorb(problem, progress, at, running)
    if pace.storage != problem.operator.dtype:
        # Storage rounds too little of these sums to matter: a build around the new potentials would but repeat them.
        _keep(progress, at.error, problem.a, at.columns, certain)
        progress.reason = torch.where(certain, CONVERGED, progress.reason)
    if broken is not None:
        _sweep_in_logarithms(problem, progress, broken)


def _judge(progress: Progress, plan: Around, error: Tensor, running: Tensor, pace: Pace) -> None:
    """Keep what is best, and stop what has arrived or gets no further."""
    better = running & (error < progress.best)
    # Far from the solution errors may grow for a while.
    progress.patience = torch.where(error < 0.98 * progress.best, 0, progress.patience + (running & (error < CLOSE)))
    _keep(progress, error, plan.rows, plan.columns, better)
    now = torch.where(progress.patience >= PATIENCE, STALLED, RUNNING)
    now = torch.where(error.isfinite(), now, NON_FINITE)
    # Potentials of a larger ε may overflow here: that is to be out of iterations, not of numbers.
    now = torch.where(progress.spent >= pace.max_iterations, MAX_ITERATIONS, now)
    now = torch.where(error <= pace.tolerance, CONVERGED, now)
    progress.reason = torch.where(running, now, progress.reason)


def _keep(progress: Progress, error: Tensor, rows: Tensor, columns: Tensor, better: Tensor) -> None:
    """The present potentials of the problems that are `better`, with the marginals of their plan."""
    wide = better[..., None]
    progress.best_f = torch.where(wide, progress.f, progress.best_f)
    progress.best_g = torch.where(wide, progress.g, progress.best_g)
    progress.rows = torch.where(wide, rows, progress.rows)
    progress.columns = torch.where(wide, columns, progress.columns)
    progress.best = torch.where(better, error, progress.best)


def _absorb(problem: Problem, progress: Progress, at: Scalings, group: Tensor) -> None:
    """f += ε log u, g += ε log v, for the problems of the group, wherever that is a number."""
    f, g = (old + problem.epsilon[..., None] * part.log() for old, part in ((progress.f, at.u), (progress.g, at.v)))
    wide = group[..., None]
    progress.f = torch.where(wide & f.isfinite(), f, progress.f)
    progress.g = torch.where(wide & g.isfinite(), g, progress.g)


def _sweep_in_logarithms(problem: Problem, progress: Progress, group: Tensor) -> None:
    """A sweep that can neither overflow nor underflow."""
    f = problem.c_transform(progress.g)
    g = problem.c_transform_transposed(f)
    progress.matvecs += 2
    progress.spent += group
    wide = group[..., None]
    progress.f, progress.g = torch.where(wide, f, progress.f), torch.where(wide, g, progress.g)


def _error(problem: Problem, plan: Around) -> Tensor:
    """The larger L1 error of the two marginals, as a share of the mass."""
    sides = ((plan.rows, problem.a), (plan.columns, problem.b))
    return torch.stack([(found - wanted).abs().sum(-1) for found, wanted in sides]).amax(0) / problem.mass


def _rescued(problem: Problem, plan: Around, progress: Progress, group: Tensor) -> bool:
    """Where a row or column sums to nothing or overflows, take a sweep in the log domain, where that cannot happen."""
    bad = torch.zeros_like(group)
    for found, wanted in ((plan.rows, problem.a), (plan.columns, problem.b)):
        bad = bad | ((wanted > 0) & ~((found > 0) & found.isfinite())).any(-1)
    bad = bad & group
    if not bool(bad.any()):
        return False
    hopeless = bad & (progress.rescues >= RESCUES)
    # What is hopeless in float32 may be possible in float64.
    progress.reason = torch.where(hopeless & ~progress.coarse, NON_FINITE, progress.reason)
    progress.rescues = torch.where(hopeless & progress.coarse, 0, progress.rescues + bad)
    progress.coarse = progress.coarse & ~hopeless
    _sweep_in_logarithms(problem, progress, bad)
    return True
