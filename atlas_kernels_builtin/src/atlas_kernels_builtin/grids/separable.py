"""The operator of a separable kernel on a grid: K = K₁ ⊗ K₂ ⊗ …, one small matrix an axis."""

from __future__ import annotations

import functools
import math

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Estimate
from atlas_kernels_builtin.exact.estimate import rounding_error
from atlas_kernels_builtin.grids.axis import AxisKernel
from atlas_kernels_builtin.grids.scaled_grid import ScaledSeparable, contraction_of
from atlas_kernels_builtin.grids.vectors import check_length, columns_first, columns_last


@attrs.frozen(eq=False, slots=False)
class SeparableOperator:
    """Apply K_ij = Π_k exp(log k_k(x_ik, y_jk) / ε) on grids of N and M points: N Σ_k s_k operations, no matrix.

    Vectors hold the grid's points in row-major order, (*batch, N). In the log domain the axes are taken one by one,
    each stably at any ε. Products in the log domain run in float64, also for a float32 operator, except on
    accelerators. Made by the kernel `grid`.
    """

    absorbs = True
    wide_scalings = True
    positive = True

    logs: tuple[Tensor, ...]
    """log k_k of each axis, (n_k, m_k), float64, not divided by ε."""
    epsilon: float | Tensor
    """A number, or (*batch,)."""
    dtype: torch.dtype
    batch_shape: tuple[int, ...] = ()

    @functools.cached_property
    def axes(self) -> tuple[AxisKernel, ...]:
        epsilon = self.epsilon
        if isinstance(epsilon, Tensor):
            epsilon = epsilon.double()[..., None, None]
        made: list[AxisKernel] = []
        for index, log in enumerate(self.logs):
            # The axes of a square image are alike: what is computed of one serves the other.
            same = [place for place in range(index) if torch.equal(self.logs[place], log)]
            made.append(made[same[0]] if same else AxisKernel(log / epsilon))
        return tuple(made)

    @functools.cached_property
    def matrices(self) -> tuple[Tensor, ...]:
        """K_k itself, in the dtype of the operator."""
        return tuple(axis.log.exp().to(self.dtype) for axis in self.axes)

    @functools.cached_property
    def sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of the two grids."""
        return tuple(log.shape[0] for log in self.logs), tuple(log.shape[1] for log in self.logs)

    @functools.cached_property
    def shape(self) -> tuple[int, int]:
        return math.prod(self.sides[0]), math.prod(self.sides[1])

    @property
    def device(self) -> torch.device:
        return self.logs[0].device

    @functools.cached_property
    def T(self) -> SeparableOperator:  # noqa: N802 - torch's name for it
        """Kᵀ, an operator of shape (M, N): this one, if it is symmetric, with all that it has computed."""
        if all(log.shape[0] == log.shape[1] and torch.equal(log, log.mT) for log in self.logs):
            return self
        return attrs.evolve(self, logs=tuple(log.mT for log in self.logs))

    def with_epsilon(self, epsilon: float | Tensor) -> SeparableOperator:
        """The same grids at another ε: a number, or (*batch,)."""
        return attrs.evolve(self, epsilon=epsilon)

    def mean_cost(self, a: Tensor, b: Tensor) -> Tensor:
        """⟨a ⊗ b, C⟩ over the masses, (*batch,), for weights (*batch, N) and (*batch, M): a sum over the axes."""
        rows, columns = (
            check_length(weights, size, self.batch_shape).double().reshape(*self.batch_shape, *side)
            for weights, size, side in zip((a, b), self.shape, self.sides, strict=True)
        )
        total = torch.zeros(self.batch_shape, dtype=torch.float64, device=self.device)
        lead = len(self.batch_shape)
        for axis, log in enumerate(self.logs):
            others = [lead + other for other in range(len(self.logs)) if other != axis]
            left, right = (part.sum(others) if others else part for part in (rows, columns))
            total = total - torch.einsum("...i,ij,...j->...", left, log, right)
        return (total / (a.double().sum(-1) * b.double().sum(-1))).to(a.dtype)

    @property
    def log_dtype(self) -> torch.dtype:
        """What products in the log domain are computed in."""
        return torch.float64 if self.device.type == "cpu" else self.dtype

    def matvec(self, v: Tensor) -> Tensor:
        """K @ v: (*batch, M) or (*batch, M, k) -> (*batch, N) or (*batch, N, k)."""
        single, values = columns_first(v, self.shape[1], self.batch_shape)
        out = values.to(self.dtype)
        for matrix in reversed(self.matrices):
            out = matrix @ out.reshape(*values.shape[:-1], -1, matrix.shape[-1]).mT
        return columns_last(out.reshape(*values.shape[:-1], -1), single).to(v.dtype)

    def rmatvec(self, u: Tensor) -> Tensor:
        """Kᵀ @ u: (*batch, N) or (*batch, N, k) -> (*batch, M) or (*batch, M, k)."""
        return self.T.matvec(u)

    def log_matvec(self, log_v: Tensor) -> Tensor:
        """log Σ_j K_ij exp(log_v_j), at any ε: (*batch, M) -> (*batch, N)."""
        level = check_length(log_v, self.shape[1], self.batch_shape).double()
        lead = level.shape[:-1]
        for axis in reversed(self.axes):
            level = axis.log_contract(level.reshape(*lead, -1, axis.log.shape[-1]), self.log_dtype)
        return level.reshape(*lead, -1).to(log_v.dtype)

    def log_rmatvec(self, log_u: Tensor) -> Tensor:
        """log Σ_i K_ij exp(log_u_i): (*batch, N) -> (*batch, M)."""
        return self.T.log_matvec(log_u)

    def scaled(
        self, log_left: Tensor, log_right: Tensor, *, storage: torch.dtype | None = None, drop: float = 0.0
    ) -> ScaledSeparable:
        """diag(exp log_left) K diag(exp log_right), without overflow: (*batch, N), (*batch, M); entries may be −inf.

        Products run in `storage` where its exponents suffice, else in the operator's dtype. No entry is stored, so that
        none can be dropped.
        """
        left = check_length(log_left, self.shape[0], self.batch_shape)
        right = check_length(log_right, self.shape[1], self.batch_shape)
        return ScaledSeparable(self, left, right, self._product_dtype(storage))

    def row_normalised(self, log_right: Tensor) -> tuple[Tensor, ScaledSeparable]:
        """log Σ_j K_ij exp(r_j) of log_right r (*batch, M), and K diag(exp r) with rows divided by these sums.

        Both for the price of one: a c-transform and the conditional laws of its plan.
        """
        right = check_length(log_right, self.shape[1], self.batch_shape)
        contraction = contraction_of(self, right, self.dtype)
        log_sums = contraction.log_sums.reshape(*right.shape[:-1], -1)
        return log_sums.to(self.dtype), ScaledSeparable(self, -log_sums, right, self.dtype, contraction)

    def _product_dtype(self, storage: torch.dtype | None) -> torch.dtype:
        # In float32 costs beyond 78 ε take several blocks, which cost more than float64 does.
        if storage != torch.float32 or any(len(axis.single) > 2 for axis in self.axes):
            return self.dtype
        return torch.float32

    def sums(self) -> tuple[Tensor, Tensor]:
        """Row and column sums: (*batch, N), (*batch, M)."""
        ones = [torch.ones(*self.batch_shape, size, dtype=self.dtype, device=self.device) for size in self.shape]
        return self.matvec(ones[1]), self.rmatvec(ones[0])

    def log_rows(self, index: Tensor) -> Tensor:
        """log K of the rows `index`: (r,) -> (*batch, r, M)."""
        places = torch.unravel_index(index.to(self.device), self.sides[0])
        out = torch.zeros(len(index), 1, dtype=torch.float64, device=self.device)
        for axis, place in zip(self.axes, places, strict=True):
            rows = axis.log[..., place, :]
            out = (out[..., None] + rows[..., None, :]).flatten(-2)
        return out.expand(*self.batch_shape, *out.shape[-2:]).to(self.dtype)

    def cost_inner(self, log_left: Tensor, log_right: Tensor) -> Tensor:
        """Σ_ij exp(l_i + r_j) K_ij C_ij: (*batch, N), (*batch, M) -> (*batch,)."""
        return self.scaled(log_left, log_right).cost()

    def dense(self) -> Tensor:
        """K itself, (*batch, N, M)."""
        return self.log_rows(torch.arange(self.shape[0], device=self.device)).exp()

    def error_estimate(self, probes: int = 64, *, seed: int = 0) -> Estimate:
        """Relative l2 error of `matvec` on a normal vector, on `probes` rows in float64: the rounding of the dtype."""
        exact = attrs.evolve(self, dtype=torch.float64)
        return rounding_error(self, lambda index: exact.log_rows(index).exp(), probes, seed)
