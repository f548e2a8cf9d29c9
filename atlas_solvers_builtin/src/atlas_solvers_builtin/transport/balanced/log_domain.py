"""Sinkhorn's algorithm as it stands in the books, in the log domain, with what is known to speed it up."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_solvers_builtin.transport.balanced.progress import CONVERGED, MAX_ITERATIONS, NON_FINITE, RUNNING, STALLED
from atlas_solvers_builtin.transport.problem import Problem

PATIENCE = 100
"""Iterations without a new smallest error after which rounding is to blame: in exact arithmetic it never grows."""
REGULARIZATION = 1e-10
"""Of Anderson's least-squares problem, as a share of its largest diagonal."""


@attrs.define(eq=False)
class LogRun:
    """What the iteration found; all (*batch,) but the potentials."""

    f: Tensor
    g: Tensor
    reason: Tensor
    history: list[float]
    iterations: int
    matvecs: int


def solve_in_logarithms(
    problem: Problem, g: Tensor, *, tolerance: float, limit: int, check_every: int, relaxation: float, memory: int
) -> LogRun:
    """Alternate f = −ε log Σ_j b_j exp((g_j − C_ij) / ε) and the same for g until the rows are right.

    `relaxation` ω moves either potential ω times as far (Thibault et al. 2021, eq. 9). Anderson's acceleration
    combines the last `memory` iterates of g (Chizat et al. 2020, §3). The host looks every `check_every` iterations.
    """
    f = problem.c_transform(g)
    best = torch.full_like(problem.mass, torch.inf)
    since = torch.zeros_like(best, dtype=torch.int64)
    reason = torch.full_like(since, RUNNING)
    mixer = Anderson(memory)
    history: list[float] = []
    iterations = 0
    any_running = 1.0
    while any_running:
        errors = []
        for _ in range(min(check_every, limit - iterations)):
            running = reason == RUNNING
            wide = running[..., None]
            target = problem.c_transform_transposed(f)
            next_g = mixer.mixed(g, g + relaxation * (target - g))
            exact_f = problem.c_transform(next_g)
            next_f = f + relaxation * (exact_f - f)
            # Row i of the plan (f, next_g) sums to a_i exp((f_i − exact_f_i) / ε), and column j of (f, g) likewise to
            # b_j exp((g_j − target_j) / ε): errors that cost no further product.
            error = (
                torch.maximum(
                    _excess(problem.a, problem.over(f - exact_f)),
                    _excess(problem.b, problem.over(next_g - target)),
                )
                / problem.mass
            )
            f, g = torch.where(wide, next_f, f), torch.where(wide, next_g, g)
            errors.append(torch.where(running, error, -torch.inf).amax())
            since = torch.where(error < best, 0, since + 1)
            best = torch.minimum(best, error)
            now = torch.where(since >= PATIENCE, STALLED, RUNNING)
            now = torch.where(error <= tolerance, CONVERGED, now)
            now = torch.where(error.isfinite(), now, NON_FINITE)
            reason = torch.where(running, now, reason)
        iterations += len(errors)
        if iterations >= limit:
            reason = torch.where(reason == RUNNING, MAX_ITERATIONS, reason)
        *reached, any_running = torch.stack([*errors, (reason == RUNNING).any().to(best)]).tolist()
        history.extend(reached)
    # After the last half-step of a relaxed iteration neither side is exact; one more makes the rows so.
    f = f if relaxation == 1 else problem.c_transform(g)
    return LogRun(f, g, reason, history, iterations, 2 * iterations + 1 + (relaxation != 1))


def _excess(weights: Tensor, logs: Tensor) -> Tensor:
    return torch.where(weights > 0, weights * torch.expm1(logs).abs(), 0.0).sum(-1)


@attrs.define(eq=False)
class Anderson:
    """Mix the last images of a fixed-point map so that their residuals nearly cancel (type II); memory 0: none."""

    memory: int
    points: list[tuple[Tensor, Tensor]] = attrs.field(factory=list)

    def mixed(self, point: Tensor, image: Tensor) -> Tensor:
        """The next point, (*batch, m), from this one and its image."""
        if self.memory == 0:
            return image
        self.points = [*self.points[-self.memory :], (image, image - point)]
        if len(self.points) < 2:
            return image
        images, residuals = (torch.stack(part, dim=-1) for part in zip(*self.points, strict=True))
        newest, residual = images[..., -1:], residuals[..., -1:]
        steps, changes = newest - images[..., :-1], residual - residuals[..., :-1]
        gram = changes.mT @ changes
        ridge = REGULARIZATION * gram.diagonal(dim1=-2, dim2=-1).amax(-1) + torch.finfo(gram.dtype).tiny
        gram = gram + ridge[..., None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        weights = torch.linalg.solve(gram, changes.mT @ residual)
        mixed: Tensor = (newest - steps @ weights)[..., 0]
        return mixed
