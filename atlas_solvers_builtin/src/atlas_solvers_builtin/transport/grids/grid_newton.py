"""Newton's method on the semi-dual of a problem on a grid, with a coarser grid as preconditioner."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from atlas_kernels_builtin.grids.scaled_grid import ScaledSeparable
from atlas_kernels_builtin.grids.separable import SeparableOperator
from torch import Tensor

from atlas_solvers_builtin.transport.grids.grid_levels import Level, apply_axes

Precondition = Callable[[Tensor], Tensor]
LONGEST_STEP = 4.0
"""Most that a step may change g / ε: beyond, the quadratic model says nothing."""
MOST_STEPS = 40
MOST_INNER = 200


@attrs.frozen(eq=False)
class State:
    """Potentials on one level whose plan has exact rows, columns not yet.

    With Q the plan's conditional laws given a row, c = Qᵀa its column sums and S = diag(c) − Qᵀ diag(a) Q, a Newton
    step solves S z = b − c and adds ε z to g. S is positive, and 0 for constants alone.
    """

    level: Level
    f: Tensor
    g: Tensor
    conditional: ScaledSeparable
    columns: Tensor

    @property
    def epsilon(self) -> float | Tensor:
        return self.conditional.epsilon

    @property
    def residual(self) -> Tensor:
        return self.level.b - self.columns

    @property
    def error(self) -> float:
        """L1 error of the columns, as a share of the mass."""
        return float(self.residual.abs().sum() / self.level.b.sum())

    def hessian(self, z: Tensor) -> Tensor:
        """S z."""
        return self.columns * z - self.conditional.rmatvec(self.level.a * self.conditional.matvec(z))

    def dense_hessian(self) -> Tensor:
        """S itself, in float32: it serves to precondition."""
        rows = self.conditional.dense().float()
        return self.columns.float().diag() - rows.mT @ (rows * self.level.a.float()[:, None])

    def next_g(self) -> Tensor:
        """The c-transform of f: a Sinkhorn step, which also gives g where b is 0."""
        return -self.epsilon * self.conditional.base.log_rmatvec(self.level.a.log() + self.f / self.epsilon)


@attrs.frozen(eq=False)
class Solved:
    """Where Newton's method has arrived on one level, and what it took."""

    state: State
    history: list[float]
    """The error before the first step and after each."""
    products: int
    """With K and Kᵀ."""


def state_of(level: Level, operator: SeparableOperator, g: Tensor) -> State:
    """Return f as the c-transform of g, with the plan of both: two products."""
    log_sums, conditional = operator.row_normalised(level.b.log() + g / operator.epsilon)
    return State(level, -operator.epsilon * log_sums, g, conditional, conditional.rmatvec(level.a))


def newton(
    level: Level,
    operator: SeparableOperator,
    g: Tensor,
    tolerance: float,
    precondition: Callable[[State], Precondition],
) -> Solved:
    """Return the state whose columns are right to `tolerance`, or the best within 40 steps."""
    state = best = state_of(level, operator, g)
    history, products = [state.error], 2
    while history[-1] > tolerance and len(history) <= MOST_STEPS:
        error = history[-1]
        # Each inner solve is as exact as the model is: quadratic convergence at the least cost (Dembo et al. 1982).
        target = max(0.3 * tolerance, min(0.1, error) * error) * float(level.b.sum())
        z, inner = _conjugate_gradients(state.hessian, state.residual, precondition(state), target)
        z = z * (LONGEST_STEP / z.abs().max().clamp(min=LONGEST_STEP))
        state = state_of(level, operator, state.g + operator.epsilon * z)
        history.append(state.error)
        products += 2 + 2 * inner
        if history[-1] < min(history[:-1]):
            best = state
        elif not history[-1] < 10 * min(history):  # also NaN: what is left is for plain iterations
            break
    return Solved(best, history, products)


def _conjugate_gradients(
    hessian: Callable[[Tensor], Tensor], right: Tensor, precondition: Precondition, target: float
) -> tuple[Tensor, int]:
    """Solve hessian z = right until the residual's L1 norm is below `target`; also return the iterations."""
    z, residual = torch.zeros_like(right), right
    direction = weighted = precondition(residual)
    product = residual @ weighted
    for done in range(1, MOST_INNER + 1):  # noqa: B007 - counts
        image = hessian(direction)
        curvature = direction @ image
        if not float(curvature) > 0:  # rounding: the direction is all but constant
            break
        size = product / curvature
        z, residual = z + size * direction, residual - size * image
        if float(residual.abs().sum()) < target:
            break
        weighted = precondition(residual)
        product, before = residual @ weighted, product
        direction = weighted + (product / before) * direction
    return z, done


def diagonal(state: State) -> Precondition:
    """1 / c, where there is mass."""
    inverse = torch.where(state.columns > 0, state.columns.reciprocal(), 0.0)
    return lambda residual: inverse * residual


@attrs.frozen(eq=False)
class CoarseInverse:
    """S⁻¹ of a coarse level, as a matrix: what plain iterations and conjugate gradients are slow at is smooth.

    The sum of it, interpolated, and of 1 / c has a condition number that depends neither on ε nor on the resolution,
    as long as the coarse grid sees lengths of about √ε (an additive two-level Schwarz method).
    """

    level: Level
    inverse: Tensor
    """(N, N), float32."""

    @classmethod
    def of(cls, state: State) -> CoarseInverse:
        columns = state.columns.float()
        root = torch.where(columns > 0, columns.rsqrt(), 0.0)
        scaled = root[:, None] * state.dense_hessian() * root
        # Constants are in the kernel of S: their direction is filled in, and cells without mass are left alone.
        constant = (columns / columns.sum()).sqrt()
        filled = scaled + constant[:, None] * constant + 1e-5 * torch.eye(len(columns), device=columns.device)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(filled))
        return cls(state.level, root[:, None] * inverse * root)

    def at(self, level: Level) -> Callable[[State], Precondition]:
        """The preconditioner for a finer level, or for its own."""
        if level is self.level:
            return lambda state: lambda residual: (self.inverse @ residual.float()).to(residual.dtype)
        down = [matrix.float() for matrix in level.prolongation(self.level, extrapolate=False)]
        up = [matrix.mT for matrix in down]

        def for_state(state: State) -> Precondition:
            smooth = diagonal(state)

            def apply(residual: Tensor) -> Tensor:
                coarse = self.inverse @ apply_axes(up, residual.float())
                return smooth(residual) + apply_axes(down, coarse).to(residual.dtype)

            return apply

        return for_state


def direct(state: State) -> Precondition:
    """S⁻¹ itself, for a level of a few points."""
    return CoarseInverse.of(state).at(state.level)(state)
