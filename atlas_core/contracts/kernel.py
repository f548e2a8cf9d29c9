"""The kind `kernel`: k(x, y) on points, and the linear operator that it makes of two point sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import attrs

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@attrs.frozen
class Estimate:
    """A measured number with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@runtime_checkable
class Kernel(Protocol):
    """A similarity of points; −log k is a transport cost.

    A plugin writes `log_kernel`, or `block` if the kernel is signed. Optional, each used where it is there:

    - `block(x, y) -> (n, m)`, by default exp(log_kernel);
    - `operator(x, y, *, epsilon=1.0) -> KernelOperator`: without it the engine stores or streams exact blocks;
    - `fitted(x, y, a=None, b=None) -> Kernel`: the kernel with every setting that depends on the points (a scale that
      is their mean cost) replaced by its number; called once, before an operator is made. Where points or weights want
      a gradient, what its `log_kernel` returns may carry that of the setting: operators and solvers pass it on;
    - `log_radial` of `RadialKernel`, which makes blocks and features much faster;
    - `gaussian_rates` of `SpectralKernel`, without which there are no random features of it.
    """

    has_log: bool
    """False: signed kernels, which are no transport cost."""
    item_ndim: int
    """1 for points, 3 for images."""

    def log_kernel(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log k of every pair: (n, *item), (m, *item) -> (n, m); one problem at a time, nothing in place."""
        ...


@runtime_checkable
class RadialKernel(Kernel, Protocol):
    """A positive kernel of the Euclidean distance alone: its blocks come from one matrix product.

    One that is Gaussian, log k = −c |x − y|², says c in `quadratic: float`: then not even the distances are formed.
    """

    def log_radial(self, squared: Tensor) -> Tensor:
        """Return log k of squared distances |x − y|² ≥ 0, of any shape; may work in place on `squared`."""
        ...


@runtime_checkable
class SpectralKernel(Kernel, Protocol):
    """A mixture of Gaussians: k(x, y)^(1/ε) = k(0, 0)^(1/ε) · E exp(−Σ_l τ_l (x_l − y_l)²) for random rates τ ≥ 0.

    Such is every radial kernel that is positive definite in any dimension (Schoenberg 1938), and the law of τ is all
    that random features, signed or positive, need: given τ, the frequency l is N(0, 2 τ_l). A kernel with `quadratic`
    needs no method: its τ is constant. Rates may carry a graph.
    """

    def gaussian_rates(self, count: int, dim: int, *, epsilon: float, generator: torch.Generator) -> Tensor:
        """Draw τ for points of `dim` coordinates from `generator`, in float64 on the CPU.

        Returns (count,), or (count, dim) where each coordinate has a rate of its own. Raises ValueError, naming
        `nystroem`, for an ε at which the law is not known.
        """
        ...


@runtime_checkable
class KernelOperator(Protocol):
    """K of shape (n, m), K_ij = k(x_i, y_j)^(1/ε) = exp(−C_ij / ε) with C = −log k; never formed unless by `dense`.

    Optional, each used where it is there, and each makes solvers faster:

    - `with_epsilon(epsilon) -> KernelOperator`: the same points at another ε, without scaling: where ε is to fall in
      stages;
    - `squared_rmatvec(u)`: Σ_i K_ij² u_i, (*batch, m): the diagonal that preconditions Newton's method;
    - `scaled(…, accuracy=)`: the relative error that entries may have;
    - `gram(v, weights)`: Kᵀ diag(weights) K v, (*batch, m), where that is cheaper than two products;
    - `take(rows, columns) -> KernelOperator`: K of the points of two index vectors, None for all of a side; of
      operators whose products are dear, so that a solve starts on parts;
    - `carries_graph() -> bool`: whether a product has to be differentiable.
    """

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def batch_shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def epsilon(self) -> float | Tensor:
        """() or (*batch,), in units of the cost."""
        ...

    @property
    def positive(self) -> bool:
        """False: scaling solvers refuse it."""
        ...

    @property
    def absorbs(self) -> bool:
        """False: `scaled` cannot be stored, so solvers stay in the log domain."""
        ...

    def matvec(self, v: Tensor) -> Tensor:
        """K @ v: (*batch, m) or (*batch, m, k) -> (*batch, n) or (*batch, n, k)."""
        ...

    def rmatvec(self, u: Tensor) -> Tensor:
        """Kᵀ @ u: (*batch, n) or (*batch, n, k) -> (*batch, m) or (*batch, m, k)."""
        ...

    def log_matvec(self, log_v: Tensor) -> Tensor:
        """log Σ_j K_ij exp(log_v_j), stable at any ε: (*batch, m) -> (*batch, n)."""
        ...

    def log_rmatvec(self, log_u: Tensor) -> Tensor:
        """log Σ_i K_ij exp(log_u_i): (*batch, n) -> (*batch, m)."""
        ...

    def scaled(
        self, log_left: Tensor, log_right: Tensor, *, storage: torch.dtype | None = None, drop: float = 0.0
    ) -> KernelOperator:
        """diag(exp log_left) K diag(exp log_right), without overflow: (*batch, n), (*batch, m).

        An operator that stores its entries may store them in `storage` (its products are then rounded to that, its
        `sums` are not), and may leave out entries below `drop`. One that has `wide_scalings = True` takes float64
        scalings, whatever its own dtype, and adds them up unrounded: they are large, and solvers in float32 then know
        their marginals better.
        """
        ...

    def sums(self) -> tuple[Tensor, Tensor]:
        """Row and column sums, (*batch, n) and (*batch, m), in the precision of `dtype`; free once stored."""
        ...

    def log_rows(self, index: Tensor) -> Tensor:
        """log K of the rows `index`: (r,) -> (*batch, r, m)."""
        ...

    def cost_inner(self, log_left: Tensor, log_right: Tensor) -> Tensor:
        """Σ_ij exp(l_i + r_j) K_ij C_ij, streamed: (*batch, n), (*batch, m) -> (*batch,)."""
        ...

    def dense(self) -> Tensor:
        """K itself, (*batch, n, m)."""
        ...

    def error_estimate(self, probes: int = 64, *, seed: int = 0) -> Estimate:
        """Relative l2 error of `matvec`, measured on exact rows."""
        ...
