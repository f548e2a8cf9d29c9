"""Where each problem of a batch stands, from its start to the reason why it stopped."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_solvers_builtin.transport.balanced.scaling import Ladder
from atlas_solvers_builtin.transport.problem import Problem

RUNNING, CONVERGED, MAX_ITERATIONS, STALLED, NON_FINITE = range(5)
REASONS = ("running", "converged", "max-iterations", "stalled", "non-finite")


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
