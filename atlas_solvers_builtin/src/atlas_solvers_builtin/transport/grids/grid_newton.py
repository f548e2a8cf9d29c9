"""Newton's method on the semi-dual of problems on a grid, with a coarser grid as preconditioner."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import attrs
import torch
from atlas_kernels_builtin.grids.scaled_grid import ScaledSeparable
from atlas_kernels_builtin.grids.separable import SeparableOperator
from torch import Tensor

from atlas_solvers_builtin.transport.conjugate_gradients import conjugate_gradients
from atlas_solvers_builtin.transport.grids.grid_dense import LONGEST_STEP, MOST_STEPS, DenseState
from atlas_solvers_builtin.transport.grids.grid_levels import Level, apply_axes

Precondition = Callable[[Tensor], Tensor]
MOST_INNER = 200
CHECK_EVERY = 1
"""Steps between two looks: a product is many small ones here, and few steps are made."""


@attrs.frozen(eq=False, slots=False)
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
    """c, (*batch, M)."""

    @property
    def epsilon(self) -> float | Tensor:
        return self.conditional.epsilon

    @functools.cached_property
    def residual(self) -> Tensor:
        return self.level.b - self.columns

    @functools.cached_property
    def errors(self) -> Tensor:
        """(*batch,): L1 errors of the columns, as a share of the mass."""
        return self.residual.abs().sum(-1) / self.level.mass

    @functools.cached_property
    def _gram(self) -> Callable[[Tensor], Tensor]:
        return self.conditional.gram_of(self.level.a)

    def hessian(self, z: Tensor) -> Tensor:
        """S z."""
        return self.columns * z - self._gram(z)

    def next_g(self) -> Tensor:
        """The c-transform of f: a Sinkhorn step, which also gives g where b is 0."""
        if self.level.dark:
            return -self.epsilon * self.conditional.base.log_rmatvec(self.level.log_a + self.f / self.epsilon)
        return self.g + self.epsilon * (self.level.log_b - self.columns.log())


@attrs.frozen(eq=False)
class Solved:
    """Where Newton's method has arrived on one level, and what it took."""

    state: State
    history: list[float]
    """The largest error before the first step and after each."""
    products: int
    """With K and Kᵀ."""


def state_of(level: Level, operator: SeparableOperator, g: Tensor) -> State:
    """Return f as the c-transform of g, with the plan of both: two products."""
    log_sums, conditional = operator.row_normalised(level.log_b + g / operator.epsilon)
    return State(level, -operator.epsilon * log_sums, g, conditional, conditional.rmatvec(level.a))


def newton(
    level: Level,
    operator: SeparableOperator,
    g: Tensor,
    tolerance: float,
    precondition: Callable[[State], Precondition],
) -> Solved:
    """Return the state whose columns are right to `tolerance`, or the best within 40 steps."""
    state = state_of(level, operator, g)
    best, least, going = g, state.errors, state.errors > tolerance
    history, products = [float(least.max())], 2
    while bool(going.any()) and len(history) <= MOST_STEPS:
        # Each inner solve is as exact as the model is: quadratic convergence at the least cost (Dembo et al. 1982).
        share = (state.errors.clamp(max=0.1) * state.errors).clamp(min=0.3 * tolerance)
        z, inner = conjugate_gradients(
            state.hessian,
            precondition(state),
            state.residual,
            share * level.mass,
            going,
            limit=MOST_INNER,
            check_every=CHECK_EVERY,
        )
        z = z * (LONGEST_STEP / z.abs().amax(-1, keepdim=True).clamp(min=LONGEST_STEP))
        state = state_of(level, operator, state.g + operator.epsilon * z)
        history.append(float(state.errors.max()))
        products += 2 + 2 * int(inner.max())
        better = state.errors < least
        best = torch.where(better[..., None], state.g, best)
        # Where errors grow tenfold, or are NaN, what is left is for plain iterations.
        going = going & (state.errors < 10 * least) & (state.errors > tolerance)
        least = torch.where(better, state.errors, least)
    if bool((state.errors > least).any()) or not history[-1] < math.inf:
        state = state_of(level, operator, best)
    return Solved(state, history, products)


@attrs.frozen(eq=False, slots=False)
class CoarseInverse:
    """What plain iterations and conjugate gradients are slow at is smooth: it is solved for on a coarse level.

    There S⁻¹ − diag(1 / c) is a smooth matrix. Interpolated, and 1 / c of the finer level added, it is an inverse with
    a condition number that depends neither on ε nor on the resolution, as long as the coarse grid sees lengths of
    about √ε (an additive two-level Schwarz method; what both levels would add is counted once).
    """

    state: DenseState

    @functools.cached_property
    def smooth(self) -> Tensor:
        """(*batch, N, N), float32."""
        return self.state.smooth_inverse()

    def at(self, level: Level) -> Callable[[State], Precondition]:
        """The preconditioner for a finer level."""
        smooth = self.smooth
        down = [matrix.float() for matrix in level.prolongation(self.state.level, extrapolate=False)]
        up = [matrix.mT for matrix in down]

        def for_state(state: State) -> Precondition:
            inverse = torch.where(state.columns > 0, state.columns.reciprocal(), 0.0)

            def apply(residual: Tensor) -> Tensor:
                coarse = (smooth @ apply_axes(up, residual.float())[..., None])[..., 0]
                return torch.addcmul(apply_axes(down, coarse).to(residual), inverse, residual)

            return apply

        return for_state
