"""A coarse level as a dense problem: of a few hundred points, the matrix itself is the fastest operator."""

from __future__ import annotations

import functools

import attrs
import torch
from torch import Tensor

from atlas_solvers_builtin.transport.grids.grid_levels import Level

LONGEST_STEP = 4.0
"""Most that a step may change g / ε: beyond, the quadratic model says nothing."""
MOST_STEPS = 40
SERVES = 0.3
"""What a step has to leave of the error for its factor to be used again."""
REGULAR = 1e-5
"""Added to the diagonal, which is 1: what float32 leaves of a positive matrix stays positive."""


@attrs.frozen(eq=False, slots=False)
class DenseState:
    """Potentials of a coarse level whose plan has exact rows, columns not yet: what `State` is of a fine one."""

    level: Level
    log_kernel: Tensor
    """(N, M), not divided by ε."""
    epsilon: float
    g: Tensor
    conditional: Tensor
    """Q, (*batch, N, M)."""
    columns: Tensor
    """(*batch, M)."""

    @property
    def residual(self) -> Tensor:
        return self.level.b - self.columns

    @functools.cached_property
    def error(self) -> float:
        """The largest L1 error of the columns, as a share of the mass."""
        return float((self.residual.abs().sum(-1) / self.level.mass).max())

    @functools.cached_property
    def _root(self) -> Tensor:
        """1 / √c in float32, 0 where there is no mass."""
        return torch.where(self.columns > 0, self.columns.rsqrt(), 0.0).float()

    @functools.cached_property
    def factor(self) -> Tensor:
        """The Cholesky factor of S, scaled to a diagonal of 1, in float32: (*batch, M, M).

        Constants are in the kernel of S: their direction is filled in, and cells without mass are left alone.
        """
        rows = self.conditional.float() * self.level.a.sqrt().float()[..., None] * self._root[..., None, :]
        constant = (self.columns / self.level.mass[..., None]).sqrt().float()[..., None]
        matrix = constant @ constant.mT - rows.mT @ rows
        matrix.diagonal(dim1=-2, dim2=-1).add_(1.0 + REGULAR)
        factor: Tensor = torch.linalg.cholesky(matrix)
        return factor

    def step(self, residual: Tensor) -> Tensor:
        """S⁻¹ residual, cut to a length that the model is good for."""
        right = (self._root * residual)[..., None].float()
        z = (self._root * torch.cholesky_solve(right, self.factor)[..., 0]).to(self.g)
        return z * (LONGEST_STEP / z.abs().amax(-1, keepdim=True).clamp(min=LONGEST_STEP))

    def next_g(self) -> Tensor:
        """The c-transform of f: a Sinkhorn step, which also gives g where b is 0."""
        if not self.level.dark:
            return self.g + self.epsilon * (self.level.log_b - self.columns.log())
        scaled = self.log_kernel / self.epsilon
        log_sums = (scaled + (self.level.log_b + self.g / self.epsilon)[..., None, :]).logsumexp(-1)
        return -self.epsilon * (scaled + (self.level.log_a - log_sums)[..., None]).logsumexp(-2)

    def smooth_inverse(self) -> Tensor:
        """S⁻¹ − diag(1 / c), (*batch, M, M), float32: positive, and as smooth as the plan's conditional laws are."""
        inverse = torch.cholesky_inverse(self.factor)
        inverse.diagonal(dim1=-2, dim2=-1).sub_(1.0)
        return self._root[..., None] * inverse * self._root[..., None, :]


@attrs.frozen(eq=False, slots=False)
class Dense:
    """A coarse level solved."""

    state: DenseState
    model: DenseState
    """The last state whose S was factorised: near enough."""


def state_of(level: Level, log_kernel: Tensor, epsilon: float, g: Tensor) -> DenseState:
    right = level.log_b + g / epsilon
    conditional = torch.softmax(torch.add(right[..., None, :], log_kernel, alpha=1 / epsilon), -1)
    columns = (level.a[..., None, :] @ conditional)[..., 0, :]
    return DenseState(level, log_kernel, epsilon, g, conditional, columns)


def log_kernel_of(level: Level) -> Tensor:
    """log k of all pairs, (N, M), not divided by ε."""
    whole = attrs.evolve(level.operator(1.0), batch_shape=())
    return whole.log_rows(torch.arange(whole.shape[0], device=whole.device))


def solve_dense(level: Level, log_kernel: Tensor, epsilon: float, g: Tensor, tolerance: float) -> Dense:
    """Newton's method, until the columns are right to `tolerance` or errors fall no further.

    S is factorised anew only where the last factor has stopped serving: a step costs far less than that.
    """
    state = best = model = state_of(level, log_kernel, epsilon, g)
    for _ in range(MOST_STEPS):
        if best.error <= tolerance or not state.error < 10 * best.error + tolerance:
            break
        before, state = state, state_of(level, log_kernel, epsilon, state.g + epsilon * model.step(state.residual))
        if state.error > SERVES * before.error:
            model = state
        best = state if state.error < best.error else best
    return Dense(best, model)


def dense_ladder(level: Level, epsilons: list[float], tolerance: float, rough: float) -> Dense:
    """Solve a level for one ε after another, to `rough`, and at the last one to `tolerance`."""
    log_kernel, g = log_kernel_of(level), torch.zeros_like(level.b)
    for epsilon in epsilons[:-1]:
        g = solve_dense(level, log_kernel, epsilon, g, rough).state.next_g()
    return solve_dense(level, log_kernel, epsilons[-1], g, tolerance)
