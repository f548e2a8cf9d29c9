"""Scaling sweeps for transport whose marginals are penalised, in the log domain or on an absorbed kernel."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from atlas_solvers_builtin.transport.problem import Problem
from atlas_solvers_builtin.transport.unbalanced.absorbed_transforms import DRIFT, Absorbed
from atlas_solvers_builtin.transport.unbalanced.penalties import Penalty, translated
from atlas_solvers_builtin.transport.unbalanced.proximal_newton import newton

CHECK_EVERY = 10
"""Sweeps on the absorbed kernel between two looks at the error, each a synchronisation with the device."""
NEWTON_BELOW = 0.1
"""Error below which Newton steps take over from sweeps, which mend single points well and what is collective badly."""
PATIENCE = 300
"""Sweeps without a new smallest error after which rounding is to blame."""
REASONS = ("max-iterations", "converged", "stalled", "non-finite")
CONVERGED, STALLED, NON_FINITE = 1, 2, 3

Transform = Callable[[Tensor], Tensor]


@attrs.frozen(eq=False)
class Swept:
    """Potentials, why each problem stopped, and what was done on the way."""

    f: Tensor
    g: Tensor
    reason: Tensor
    """(*batch,): an index into `REASONS`."""
    history: list[float]
    iterations: int
    matvecs: int

    @classmethod
    def nothing(cls) -> Swept:
        """Where no work was done yet."""
        none = torch.zeros(0)
        return cls(none, none, none, [], 0, 0)

    def then(self, later: Swept) -> Swept:
        """What `later` found, with the work of both."""
        return attrs.evolve(
            later,
            history=self.history + later.history,
            iterations=self.iterations + later.iterations,
            matvecs=self.matvecs + later.matvecs,
        )

    def status(self, error: Tensor, tolerance: float) -> tuple[str, ...]:
        """A word a problem, for the error of the plan as returned, which rounding may have left short."""
        words = []
        for reason, left in zip(self.reason.flatten().tolist(), error.flatten().tolist(), strict=True):
            if not math.isfinite(left):
                words.append("non-finite")
            elif left <= tolerance:
                words.append("converged")
            else:
                words.append("stalled" if REASONS[reason] == "converged" else REASONS[reason])
        return tuple(words)


@attrs.frozen(eq=False)
class Sweeps:
    """Alternate f = prox_a(T g) and g = prox_b(Tᵀ f), T the c-transform, until the plan's marginals are those that f
    and g want (Chizat et al. 2018, alg. 1; in the log domain, Séjourné et al. 2019, alg. 1).
    """

    problem: Problem
    penalties: tuple[Penalty, Penalty]
    tolerance: float
    """L1 distance of the marginals from those wanted, as a share of the mean of the two masses."""

    @property
    def scale(self) -> Tensor:
        """(*batch,): the mass that errors are shares of."""
        return (self.problem.a.sum(-1) + self.problem.b.sum(-1)) / 2

    @torch.no_grad()
    def run(self, g: Tensor, max_iterations: int) -> Swept:
        """Start from g (*batch, m). Convergence is only ever declared in the log domain, in full precision."""
        problem, state = self.problem, _State.of(self.problem)
        f = self._prox(0, problem.c_transform(g))
        iterations, matvecs, worst = 0, 1, torch.inf
        absorbed: Absorbed | None = None
        while iterations < max_iterations and not state.done:
            before = f, g
            transforms: tuple[Transform, Transform] = (problem.c_transform, problem.c_transform_transposed)
            sweeps = 1
            if absorbed is not None:
                transforms, sweeps = (absorbed.rows, absorbed.columns), min(CHECK_EVERY, max_iterations - iterations)
                if worst < NEWTON_BELOW:
                    f, g, steps = newton(absorbed, self.penalties, g)
                    iterations, matvecs, sweeps = iterations + steps, matvecs + 2 * steps + 3, 2
            for _ in range(sweeps):
                f, g, error, t = self._sweep(f, g, *transforms)
            iterations, matvecs = iterations + sweeps, matvecs + 2 * sweeps
            f, g = state.keep(before, (f, g))
            if absorbed is not None and not bool((f.isfinite().all()) & g.isfinite().all()):
                absorbed, (f, g) = None, before
                continue
            worst = float(error[~state.stopped].max())
            if absorbed is None:
                state.record(error, self.tolerance, sweeps)
                drift = float((problem.over(g - before[1])).abs().amax())
                if problem.operator.absorbs and drift < DRIFT / 2 and not state.done:
                    absorbed, matvecs = Absorbed.at(problem, t, g, self.tolerance), matvecs + 1
            else:
                # What it believes converged is measured again, on the kernel as it is.
                absorbed = absorbed if worst > self.tolerance and absorbed.holds(g) else None
                state.watch(error, sweeps)
        return Swept(f, g, state.reason, state.history, iterations, matvecs)

    def _sweep(
        self, f: Tensor, g: Tensor, rows: Transform, columns: Transform
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the next f and g, the error of the plan (f, next g), whose columns are right, and T(next g)."""
        problem = self.problem
        g = self._prox(1, columns(f))
        t = rows(g)
        error = row_error(problem.a, self.penalties[0], f, problem.over(f - t)) / self.scale
        f = self._prox(0, t)
        return *translated(self.penalties, f, g, problem.a, problem.b), error, t

    def _prox(self, side: int, t: Tensor) -> Tensor:
        return self.penalties[side].prox(t, self.problem.epsilon)


def row_error(weights: Tensor, penalty: Penalty, f: Tensor, log_ratio: Tensor) -> Tensor:
    """Σ_i |p_i − wanted_i|, (*batch,): p_i = a_i exp(log_ratio_i) are the plan's row sums."""
    ratio = log_ratio.exp()
    return torch.where(weights > 0, weights * (ratio - penalty.wanted(f, ratio)).abs(), 0.0).sum(-1)


@attrs.define(eq=False)
class _State:
    """Which problems of the batch still run."""

    reason: Tensor
    best: Tensor
    since: Tensor
    history: list[float]

    @classmethod
    def of(cls, problem: Problem) -> _State:
        best = torch.full_like(problem.a[..., 0], torch.inf)
        zero = torch.zeros_like(best, dtype=torch.int64)
        return cls(reason=zero, best=best, since=zero.clone(), history=[])

    @property
    def stopped(self) -> Tensor:
        return self.reason > 0

    @property
    def done(self) -> bool:
        return bool(self.stopped.all())

    def keep(self, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """A problem that has stopped stays as it is: its answer does not depend on the rest of the batch."""
        stopped = self.stopped[..., None]
        return torch.where(stopped, old[0], new[0]), torch.where(stopped, old[1], new[1])

    def watch(self, error: Tensor, sweeps: int) -> None:
        """Note the error after some sweeps; too many without a smaller one are a reason to stop."""
        self.history.append(float(error[~self.stopped].max()))
        self.since = torch.where(error < self.best, 0, self.since + sweeps)
        self.best = torch.minimum(self.best, error)
        self.reason = torch.where(~self.stopped & (self.since >= PATIENCE), STALLED, self.reason)

    def record(self, error: Tensor, tolerance: float, sweeps: int) -> None:
        """The same where the error is the true one, which decides."""
        running = ~self.stopped
        self.watch(error, sweeps)
        now = torch.where(error <= tolerance, CONVERGED, self.reason)
        now = torch.where(error.isfinite(), now, NON_FINITE)
        self.reason = torch.where(running, now, self.reason)
