"""Rounds of absorption: the plan is built around the potentials, which are improved on it, until exact sums agree."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_solvers_builtin.transport.balanced.absorbed import Around, around
from atlas_solvers_builtin.transport.balanced.newton import newton_step
from atlas_solvers_builtin.transport.balanced.scaling import Ladder
from atlas_solvers_builtin.transport.balanced.sweeps import COARSE, Local, Scalings, sweep
from atlas_solvers_builtin.transport.problem import Problem

RUNNING, CONVERGED, MAX_ITERATIONS, STALLED, NON_FINITE = range(5)
REASONS = ("running", "converged", "max-iterations", "stalled", "non-finite")
FINE = 1e-3
"""Marginal error at the final ε from which exact sums are worth their price."""
COARSE_ENTRIES = 1e-4
"""Relative error that entries may have on the way there."""
SAFETY = 0.3
"""Share of the tolerance that is aimed at, since the last word is the exact sums'."""
DROPPED = 0.02
"""Share of the tolerance that entries left out of the kernel may add up to."""
FAST = 0.1
"""What a sweep must leave of the error, at most, to be worth more than a Newton step."""
CLOSE = 0.5
"""Marginal error below which no scaling is far from 1."""
RESCUES = 20
"""Sweeps in the log domain that a problem is granted before its kernel is held to be zero in a row."""
PATIENCE = 4
"""Rounds without a smaller error after which rounding is to blame."""


@attrs.frozen
class Pace:
    """How the iteration goes on, in numbers."""

    tolerance: float
    max_iterations: int
    newton: bool
    check_every: int
    storage: torch.dtype
    sweeps: int = 10
    """Sweeps at one ε before Newton takes over."""


@attrs.define(eq=False)
class Progress:
    """Where each problem of a batch stands; all tensors (*batch,) but the potentials."""

    f: Tensor
    g: Tensor
    stage: Tensor
    """Step of the ladder of ε; the last is the problem's own ε."""
    coarse: Tensor
    """True: not yet in the phase where the exact sums decide."""
    reason: Tensor
    best: Tensor
    """Smallest exact error so far, with where it was."""
    best_f: Tensor
    best_g: Tensor
    rows: Tensor
    columns: Tensor
    patience: Tensor
    spent: Tensor
    visits: Tensor
    """Rounds at this stage."""
    warm: Tensor
    """True: a start of unknown worth, not looked at yet."""
    rescues: Tensor
    rate: Tensor
    """What the latest sweep left of the error."""
    there: Problem | None = None
    """The problem at the present ε of each, kept from round to round."""
    last: tuple[Tensor, Tensor, Tensor] | None = None
    """f, g and ε of the stage before, from which the next is extrapolated."""
    history: list[float] = attrs.field(factory=list)
    matvecs: int = 0
    builds: int = 0

    @property
    def running(self) -> Tensor:
        """(*batch,)."""
        return self.reason == RUNNING

    def resume(self, reason: int) -> bool:
        """Let the problems that stopped for `reason` run on from their best potentials; whether there are any."""
        again = self.reason == reason
        wide = again[..., None]
        self.f, self.g = torch.where(wide, self.best_f, self.f), torch.where(wide, self.best_g, self.g)
        self.reason = torch.where(again, RUNNING, self.reason)
        self.patience = torch.where(again, 0, self.patience)
        return bool(again.any())


def start(problem: Problem, ladder: Ladder, f: Tensor, g: Tensor, *, warm: bool) -> Progress:
    """Begin at the coarsest ε, or, warm, where the exact sums tell how good the start is."""
    none = torch.zeros_like(problem.mass, dtype=torch.int64)
    stage = ladder.last.clone() if warm else none
    return Progress(
        f=f,
        g=g,
        stage=stage,
        coarse=ladder.has_coarse & ~torch.full_like(none, warm, dtype=torch.bool),
        reason=none.clone(),
        best=torch.full_like(problem.mass, torch.inf),
        best_f=f,
        best_g=g,
        rows=torch.zeros_like(problem.a),
        columns=torch.zeros_like(problem.b),
        patience=none.clone(),
        spent=none.clone(),
        visits=none.clone(),
        warm=torch.full_like(none, warm, dtype=torch.bool),
        rescues=none.clone(),
        rate=torch.ones_like(problem.mass),
    )


def solve_rounds(problem: Problem, ladder: Ladder, pace: Pace, progress: Progress) -> Progress:
    """Run rounds until every problem has a reason to stop; potentials are those of the smallest exact error."""
    while bool(progress.running.any()):
        # What has run out of iterations is measured at its own ε, wherever on the way it is.
        coarse = progress.running & progress.coarse & (progress.spent < pace.max_iterations)
        if bool(coarse.any()):
            _coarse_round(problem, ladder, pace, progress, coarse)
        else:
            _exact_round(problem, pace, progress, ladder)
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
    at, done, broken = _improve(local, budget, progress, group, target)
    del plan, local
    _absorb(there, progress, at, group)
    if bool(broken.any()):
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
    plan = around(problem, progress.f, progress.g, storage=pace.storage, drop=DROPPED * pace.tolerance)
    progress.builds += 1
    if _rescued(problem, plan, progress, running):
        return
    error = _error(problem, plan)
    progress.history.append(float(torch.where(running, error, -torch.inf).amax()))
    _judge(progress, plan, error, running, pace)
    running = progress.running
    # A warm start that is far off goes the long way round.
    far = running & progress.warm & (error > CLOSE) & ladder.has_coarse
    progress.warm = progress.warm & ~running
    if bool(far.any()):
        progress.coarse = far
        progress.stage = torch.where(far, 0, progress.stage)
        return
    if not bool(running.any()):
        return
    exact = (error < CLOSE).to(error.dtype)
    target = torch.where(exact > 0, SAFETY * pace.tolerance, max(FINE, SAFETY * pace.tolerance)).to(error.dtype)
    local = Local(plan, problem, exact)
    at, _, broken = _improve(local, pace, progress, running, target)
    certain = running & (at.error + local.uncertainty(at, DROPPED * pace.tolerance) <= pace.tolerance)
    del plan, local
    _absorb(problem, progress, at, running)
    if pace.storage != problem.operator.dtype:
        # Storage rounds too little of these sums to matter: a build around the new potentials would but repeat them.
        _keep(progress, at.error, problem.a, at.columns, certain)
        progress.reason = torch.where(certain, CONVERGED, progress.reason)
    if bool(broken.any()):
        _sweep_in_logarithms(problem, progress, broken)


def _judge(progress: Progress, plan: Around, error: Tensor, running: Tensor, pace: Pace) -> None:
    """Keep what is best, and stop what has arrived or gets no further."""
    better = running & (error < progress.best)
    # Far from the solution errors may grow for a while.
    progress.patience = torch.where(error < 0.98 * progress.best, 0, progress.patience + (running & (error < CLOSE)))
    _keep(progress, error, plan.rows, plan.columns, better)
    now = torch.where(progress.patience >= PATIENCE, STALLED, RUNNING)
    now = torch.where(progress.spent >= pace.max_iterations, MAX_ITERATIONS, now)
    now = torch.where(error.isfinite(), now, NON_FINITE)
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


def _improve(
    local: Local, pace: Pace, progress: Progress, group: Tensor, target: Tensor
) -> tuple[Scalings, Tensor, Tensor]:
    """Sweeps, then Newton steps, on one plan; also return which reached `target`, and which could make no sweep."""
    at = local.start()
    progress.matvecs += 1
    progress.spent += group
    swept = torch.zeros_like(progress.spent)
    stuck, broken = torch.zeros_like(group), torch.zeros_like(group)
    first = at.error
    while True:
        active = group & ~stuck & (at.error > target) & local.in_range(at) & (progress.spent < pace.max_iterations)
        ready = _ready_for_newton(local, at, first, swept, progress.rate, pace)
        sweeping, stepping = torch.stack([(active & ~ready).any(), (active & ready).any()]).tolist()
        if sweeping:
            going, before = active & ~ready, at.error
            at, made = sweep(local, at, going, target, count=pace.check_every)
            broken = broken | going & (made == 0)
            stuck = stuck | broken
            latest = (at.error / before) ** (1 / made.clamp(min=1))
            progress.rate = torch.where(going & (made > 0), latest, progress.rate)
            swept, progress.spent = swept + made, progress.spent + made
            progress.matvecs += 2 * pace.check_every
            progress.history.append(float(torch.where(going, at.error, -torch.inf).amax()))
        elif stepping:
            going = active & ready
            before = at.error
            goal = torch.maximum(target / 2, _forcing(before) * before)
            limit = (pace.max_iterations - progress.spent).clamp(min=1)
            step = newton_step(local, at, going, goal, limit=limit, check_every=pace.check_every)
            at = step.at
            made = torch.where(going, step.products, 0)
            progress.spent = progress.spent + made
            progress.matvecs += 2 * int(made.max())
            progress.history.append(float(torch.where(going, at.error, -torch.inf).amax()))
            stuck = stuck | going & (~step.moved | (at.error > 0.9 * before) & (local.exact > 0))
        else:
            return at, group & (at.error <= target), broken


def _ready_for_newton(local: Local, at: Scalings, first: Tensor, swept: Tensor, rate: Tensor, pace: Pace) -> Tensor:
    """Sweeps pay while they mend single points; Newton steps, once the errors are collective."""
    if not pace.newton:
        return torch.zeros_like(swept, dtype=torch.bool)
    settled = ((swept >= 3) & (at.error < 0.05) | (local.exact > 0) & (first < 0.01)) & (rate > FAST)
    return settled | (swept >= pace.sweeps) & (at.error < 0.3) | (swept >= 5 * pace.sweeps)


def _forcing(error: Tensor) -> Tensor:
    """How far a Newton step reduces its linear residual: more is lost on what the model leaves out."""
    return error.sqrt().clamp(min=0.02, max=0.1)


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
