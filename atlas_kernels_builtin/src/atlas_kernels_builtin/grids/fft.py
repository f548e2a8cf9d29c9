"""The operator of a stationary kernel on a regular grid: a convolution, by circulant embedding and the FFT."""

from __future__ import annotations

import functools
import math

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Estimate
from atlas_kernels_builtin.exact.estimate import rounding_error
from atlas_kernels_builtin.exact.streaming import StreamingOperator, stream
from atlas_kernels_builtin.grids.vectors import check_length, columns_first, columns_last

LOG_ACCURACY = 1e-9
"""Relative accuracy of products in the log domain, in float64: where the FFT's rounding is more, rows are exact."""


@attrs.frozen(eq=False, slots=False)
class StationaryOperator:
    """Apply K_ij = k(x_i − x_j)^(1/ε) on a regular grid, as a zero-padded convolution in O(N log N).

    The FFT's rounding is relative to the largest output, not to each. So in the log domain every output that it cannot
    carry to nine digits is computed from its exact row: right at any ε, and fast where the cost spans less than some
    15 ε. Scaled versions are exact and streamed, hence `absorbs` is False. Made by the kernel `grid`.
    """

    absorbs = False

    values: Tensor
    """log k, or k of a signed kernel, of every offset −(s − 1) … s − 1 of the grid; float64, not divided by ε."""
    exact: StreamingOperator
    """The same operator, exact and in blocks, in float64."""
    dtype: torch.dtype

    @property
    def side(self) -> tuple[int, ...]:
        """The shape of the grid."""
        return tuple((size + 1) // 2 for size in self.values.shape)

    @property
    def shape(self) -> tuple[int, int]:
        return self.exact.shape

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.exact.batch_shape

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def epsilon(self) -> float | Tensor:
        return self.exact.epsilon

    def with_epsilon(self, epsilon: float | Tensor) -> StationaryOperator:
        """The same grid at another ε: a number, or (*batch,)."""
        return attrs.evolve(self, exact=self.exact.with_epsilon(epsilon))

    @property
    def positive(self) -> bool:
        return self.exact.positive

    @functools.cached_property
    def _spectrum(self) -> Tensor:
        """The transform of the kernel's values, (*batch, …), float64: rounding is for the vectors."""
        values = self.values
        if self.positive:
            epsilon = self.epsilon
            if isinstance(epsilon, Tensor):
                epsilon = epsilon.double().reshape(*epsilon.shape, *[1] * len(self.side))
            values = (values / epsilon).exp()
        spectrum: Tensor = torch.fft.rfftn(values, s=self._padded, dim=self._dims)
        return spectrum

    @property
    def _dims(self) -> tuple[int, ...]:
        return tuple(range(-len(self.side), 0))

    @property
    def _padded(self) -> tuple[int, ...]:
        # Linear convolution of s values with 2s − 1 offsets; a power of two, or 3 · one, transforms fastest.
        return tuple(_fast_length(3 * s - 2) for s in self.side)

    def matvec(self, v: Tensor) -> Tensor:
        """K @ v: (*batch, N) or (*batch, N, k) -> the same shape."""
        single, values = columns_first(v, self.shape[1], self.batch_shape)
        return columns_last(self._convolve(values.double(), self._spectrum), single).to(v.dtype)

    def rmatvec(self, u: Tensor) -> Tensor:
        """Kᵀ @ u: (*batch, N) or (*batch, N, k) -> the same shape."""
        single, values = columns_first(u, self.shape[0], self.batch_shape)
        # Kᵀ_ij = k(x_j − x_i): the kernel turned round, which is K on the grid turned round.
        turned = self._convolve(values.double().flip(-1), self._spectrum).flip(-1)
        return columns_last(turned, single).to(u.dtype)

    def log_matvec(self, log_v: Tensor) -> Tensor:
        """log Σ_j K_ij exp(log_v_j), at any ε: (*batch, N) -> (*batch, N). Raises ValueError for a signed kernel."""
        return self._log_product(log_v, turned=False)

    def log_rmatvec(self, log_u: Tensor) -> Tensor:
        """log Σ_i K_ij exp(log_u_i): (*batch, N) -> (*batch, N)."""
        return self._log_product(log_u, turned=True)

    def scaled(
        self, log_left: Tensor, log_right: Tensor, *, storage: torch.dtype | None = None, drop: float = 0.0
    ) -> StreamingOperator:
        """diag(exp log_left) K diag(exp log_right), exact and streamed: no FFT carries the range of such entries."""
        return self.exact.scaled(log_left.double(), log_right.double())

    def sums(self) -> tuple[Tensor, Tensor]:
        """Row and column sums: (*batch, N), (*batch, N)."""
        ones = torch.ones(*self.batch_shape, self.shape[0], dtype=self.dtype, device=self.device)
        return self.matvec(ones), self.rmatvec(ones)

    def log_rows(self, index: Tensor) -> Tensor:
        """log K of the rows `index`, exact: (r,) -> (*batch, r, N). Raises ValueError for a signed kernel."""
        return self.exact.log_rows(index).to(self.dtype)

    def cost_inner(self, log_left: Tensor, log_right: Tensor) -> Tensor:
        """Σ_ij exp(l_i + r_j) K_ij C_ij, exact and streamed: (*batch, N), (*batch, N) -> (*batch,)."""
        return self.exact.cost_inner(log_left.double(), log_right.double()).to(self.dtype)

    def dense(self) -> Tensor:
        """K itself, (*batch, N, N)."""
        return self.exact.dense().to(self.dtype)

    def error_estimate(self, probes: int = 64, *, seed: int = 0) -> Estimate:
        """Relative l2 error of `matvec` on a normal vector, on `probes` exact rows: the FFT's rounding."""
        return rounding_error(self, self.exact.exact_rows, probes, seed)

    def _convolve(self, values: Tensor, spectrum: Tensor) -> Tensor:
        """(…, *batch, N) -> the same."""
        padded = torch.fft.rfftn(values.reshape(*values.shape[:-1], *self.side), s=self._padded, dim=self._dims)
        full: Tensor = torch.fft.irfftn(padded * spectrum, s=self._padded, dim=self._dims)
        # Offset 0 is the (s − 1)-th value, so that output i is element i + s − 1.
        for dim, size in zip(self._dims, self.side, strict=True):
            full = full.narrow(dim, size - 1, size)
        return full.reshape(values.shape)

    def _log_product(self, log_v: Tensor, *, turned: bool) -> Tensor:
        level = check_length(log_v, self.shape[0], self.batch_shape).double()
        if not self.positive:
            raise ValueError(f"{type(self.exact.kernel).__name__} is a signed kernel and has no logarithm")
        top = level.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(level.dtype).min)
        weights = (level - top).exp()
        product = self._convolve(weights.flip(-1) if turned else weights, self._spectrum)
        product = product.flip(-1) if turned else product
        short = (product.detach() * LOG_ACCURACY < self._noise(weights.detach())).reshape(-1, self.shape[0]).any(0)
        out = product.clamp(min=torch.finfo(torch.float64).tiny).log() + top
        index = short.nonzero()[:, 0]
        if len(index):
            out = out.index_copy(-1, index, self._exact_product(index, level, turned=turned))
        return out.to(log_v.dtype)

    def _noise(self, weights: Tensor) -> Tensor:
        """What rounding may add to a product: ‖error‖₂ ≲ u log₂ N · max |k̂| · ‖v‖₂ (Higham 2002, thm. 24.2)."""
        gain = self._spectrum.detach().abs().amax(self._dims)[..., None]
        unit = torch.finfo(torch.float64).eps * math.log2(math.prod(self._padded))
        return unit * gain * weights.square().sum(-1, keepdim=True).sqrt()

    def _exact_product(self, index: Tensor, level: Tensor, *, turned: bool) -> Tensor:
        exact = self.exact
        shape = (*self.batch_shape, self.shape[0], exact.x.shape[-1])
        points = exact.x.reshape(shape)
        if turned:
            part = stream(exact.kernel, points, points[..., index, :], epsilon=self.epsilon)
            return part.log_rmatvec(level)
        return stream(exact.kernel, points[..., index, :], points, epsilon=self.epsilon).log_matvec(level)


def _fast_length(at_least: int) -> int:
    power = 2 ** math.ceil(math.log2(at_least)) if at_least > 1 else 1
    return 3 * power // 4 if power >= 4 and 3 * power // 4 >= at_least else power
