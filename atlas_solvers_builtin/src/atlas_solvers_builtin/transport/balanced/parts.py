"""Where a solve starts whose products are dear: from the potentials of some of its points, on which they are cheap.

Potentials are functions: f(x) = −ε log Σ_j b_j exp((g_j − c(x, y_j)) / ε) continues those of a random quarter to all
points, off by what that quarter misses of the two measures. What is left for the whole problem is a correction.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import KernelOperator
from atlas_solvers_builtin.transport.balanced.absorbed import takes_accuracy
from atlas_solvers_builtin.transport.balanced.progress import Pace, Progress, start
from atlas_solvers_builtin.transport.balanced.rounds import COARSE_ENTRIES, FINE, solve_rounds
from atlas_solvers_builtin.transport.balanced.scaling import Ladder, ladder_of
from atlas_solvers_builtin.transport.problem import Problem

SHRINK = 4
"""Points for each one of the part: a product with the part costs a sixteenth."""
FEWEST = 2048
"""Points of a side that are not divided further."""

SMALLEST = 0.01
"""ε, in units of the mean cost, from which a part tells enough: below, its potentials follow its own few points."""


@attrs.frozen(eq=False)
class Part:
    """Some points of a problem, whose weights have the mass of all."""

    problem: Problem
    rows: Tensor
    columns: Tensor


def begin(
    problem: Problem, pace: Pace, f: Tensor, g: Tensor, *, factor: float, mean: Tensor, warm: bool, parts: bool
) -> tuple[Ladder, Progress]:
    """The stages of a problem with costs of that mean, and a start: at f and g if `warm`, else on a part or afresh.

    Products with a part are counted by the share of the pairs that it has.
    """
    lower = pace.storage != problem.operator.dtype and takes_accuracy(problem.operator)
    ladder = ladder_of(problem, factor, mean, lower=lower)
    smooth = bool((problem.epsilon >= SMALLEST * mean).all())
    part = part_of(problem) if parts and smooth and not warm else None
    if part is None:
        return ladder, start(problem, ladder, f, g, warm=warm)
    inner = part.problem
    rough = attrs.evolve(pace, tolerance=max(pace.tolerance, FINE))
    zeros = torch.zeros_like(inner.a), torch.zeros_like(inner.b)
    stages, progress = begin(inner, rough, *zeros, factor=factor, mean=mean, warm=False, parts=True)
    solve_rounds(inner, stages, rough, progress)
    continued = _continued(problem, part, progress.best_f, progress.best_g)
    if not all(bool(potential.isfinite().all()) for potential in continued):
        return ladder, start(problem, ladder, f, g, warm=False)
    whole = start(problem, ladder, *continued, warm=True)
    whole.coarse = whole.coarse | lower
    whole.matvecs = round((progress.matvecs + 2 * SHRINK) / SHRINK**2)
    return ladder, whole


def part_of(problem: Problem) -> Part | None:
    """A quarter of the points of either side, drawn at random; None where a product is cheap, or cannot be divided."""
    take = getattr(problem.operator, "take", None)
    if take is None or max(problem.operator.shape) < SHRINK * FEWEST:
        return None
    rows, columns = (_drawn(weights) for weights in (problem.a, problem.b))
    a, b = problem.a[..., rows], problem.b[..., columns]
    masses = a.sum(-1, keepdim=True), b.sum(-1, keepdim=True)
    if not bool(((masses[0] > 0) & (masses[1] > 0)).all()):
        return None
    mass = problem.mass[..., None]
    inner = Problem(take(rows, columns), a * (mass / masses[0]), b * (mass / masses[1]), problem.epsilon)
    return Part(inner, rows, columns)


def _drawn(weights: Tensor) -> Tensor:
    """Which points of (*batch, n) to take, in their order: of those that have any weight."""
    among = (weights > 0).reshape(-1, weights.shape[-1]).any(0).nonzero()[:, 0]
    count = max(min(len(among), FEWEST), len(among) // SHRINK)
    # On the CPU, so that a device changes nothing.
    drawn = torch.randperm(len(among), generator=torch.Generator().manual_seed(0))[:count]
    return among[drawn.sort().values.to(among.device)]


def _continued(problem: Problem, part: Part, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The potentials at all points: the c-transforms of those of the part."""

    def at_low_price(operator: KernelOperator) -> KernelOperator:
        if not takes_accuracy(operator):
            return operator
        nothing = (problem.a.new_zeros(*operator.batch_shape, size) for size in operator.shape)
        return operator.scaled(*nothing, accuracy=COARSE_ENTRIES)  # type: ignore[call-arg]

    take, epsilon = problem.operator.take, problem.epsilon  # type: ignore[attr-defined]
    to_all_rows = Problem(at_low_price(take(None, part.columns)), problem.a, part.problem.b, epsilon)
    to_all_columns = Problem(at_low_price(take(part.rows, None)), part.problem.a, problem.b, epsilon)
    return to_all_rows.c_transform(g), to_all_columns.c_transform_transposed(f)
