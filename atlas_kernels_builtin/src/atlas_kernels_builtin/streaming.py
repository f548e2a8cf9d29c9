"""The operator that every kernel gets: exact, in blocks, so that the Gram matrix is never in memory at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from atlas_core.contracts import Estimate, Kernel, KernelOperator
from atlas_kernels_builtin.cache import active_cache

Reduce = Callable[[Tensor, slice, slice], Tensor]
"""(kernel block (b, r, m), batch slice, row slice) -> (b, r, …)."""


def operator_of(kernel: Kernel, x: Tensor, y: Tensor, *, epsilon: float | Tensor = 1.0) -> KernelOperator:
    """Return the linear operator K_ij = k(x_i, y_j)^(1/ε) of x (*batch, n, *item) and y (*batch, m, *item).

    The kernel's own `operator` if it has one, else a `StreamingOperator`; inside an `operator_cache` block, one that is
    kept. `epsilon` is a number or one a problem, (*batch,). Raises ValueError for points that do not fit together, and
    for a signed kernel with ε ≠ 1.
    """
    cache = active_cache()
    return _make(kernel, x, y, epsilon) if cache is None else cache.operator(kernel, x, y, epsilon, _make)


def _make(kernel: Kernel, x: Tensor, y: Tensor, epsilon: float | Tensor) -> KernelOperator:
    fitted = getattr(kernel, "fitted", None)
    if fitted is not None:
        kernel = fitted(x, y)
    own = getattr(kernel, "operator", None)
    if own is not None:
        made: KernelOperator = own(x, y, epsilon=epsilon)
        return made
    return stream(kernel, x, y, epsilon=epsilon)


def stream(
    kernel: Kernel, x: Tensor, y: Tensor, *, epsilon: float | Tensor = 1.0, block_bytes: int | None = None
) -> StreamingOperator:
    """Return the streaming operator itself, whatever the kernel offers; `block_bytes` bounds one block of K."""
    batch = _batch_shape(kernel, x, y)
    flat_x, flat_y = (p.expand(*batch, *p.shape[-1 - kernel.item_ndim :]) for p in (x, y))
    count = math.prod(batch)
    if isinstance(epsilon, Tensor):
        epsilon = epsilon.to(x).expand(batch).reshape(-1)
    smallest = float(epsilon.detach().min()) if isinstance(epsilon, Tensor) else epsilon
    if not smallest > 0:
        raise ValueError(f"epsilon must be positive, not {smallest}")
    if not kernel.has_log and not (isinstance(epsilon, float | int) and epsilon == 1):
        raise ValueError(f"{type(kernel).__name__} is a signed kernel: k^(1/ε) is defined for ε = 1 alone")
    if block_bytes is None:
        # On a CPU a block should stay near the caches; an accelerator wants few, large launches.
        block_bytes = 2**24 if x.device.type == "cpu" else 2**28
    return StreamingOperator(
        kernel=kernel,
        x=flat_x.reshape(count, *flat_x.shape[len(batch) :]),
        y=flat_y.reshape(count, *flat_y.shape[len(batch) :]),
        batch_shape=batch,
        epsilon=epsilon,
        block_bytes=block_bytes,
    )


def _batch_shape(kernel: Kernel, x: Tensor, y: Tensor) -> tuple[int, ...]:
    name, dims = type(kernel).__name__, kernel.item_ndim
    for label, points in (("x", x), ("y", y)):
        if points.ndim < dims + 1 or 0 in points.shape:
            raise ValueError(
                f"{name} compares items of {dims} dimension(s): {label} must be a non-empty (*batch, n, *item), "
                f"not {tuple(points.shape)}"
            )
        if not points.is_floating_point():
            raise ValueError(f"{label} must be floating point, not {points.dtype}")
    if x.shape[-dims:] != y.shape[-dims:]:
        raise ValueError(
            f"x and y hold items of different shapes: {tuple(x.shape[-dims:])} and {tuple(y.shape[-dims:])}"
        )
    if x.dtype != y.dtype or x.device != y.device:
        raise ValueError(f"x is {x.dtype} on {x.device}, y is {y.dtype} on {y.device}: convert one of them")
    try:
        return tuple(torch.broadcast_shapes(x.shape[: -dims - 1], y.shape[: -dims - 1]))  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ValueError(f"the batch dimensions of x {tuple(x.shape)} and y {tuple(y.shape)} do not match") from None


@attrs.frozen(eq=False)
class StreamingOperator:
    """Apply diag(exp log_left) K diag(exp log_right) block by block: any kernel, any size, no approximation.

    A block holds whole rows of K, as many as fit in `block_bytes` (a kernel's own temporaries come on top). With
    gradients, blocks are recomputed in the backward pass rather than kept. Made by `operator_of`.
    """

    absorbs = True

    kernel: Kernel
    x: Tensor
    """(b, n, *item), the batch flattened."""
    y: Tensor
    """(b, m, *item)."""
    batch_shape: tuple[int, ...]
    _epsilon: float | Tensor
    block_bytes: int
    log_left: Tensor | None = None
    """(b, n): scaling of the rows; −inf switches a row off."""
    log_right: Tensor | None = None
    """(b, m)."""
    transposed: bool = False
    """True: x and y are swapped, and the kernel is called as k(y, x)."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.x.shape[1], self.y.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def epsilon(self) -> float | Tensor:
        return self._epsilon.reshape(self.batch_shape) if isinstance(self._epsilon, Tensor) else self._epsilon

    @property
    def positive(self) -> bool:
        return self.kernel.has_log

    @property
    def T(self) -> StreamingOperator:  # noqa: N802 - torch's name for it
        """Kᵀ, an operator of shape (m, n)."""
        return attrs.evolve(
            self,
            x=self.y,
            y=self.x,
            log_left=self.log_right,
            log_right=self.log_left,
            transposed=not self.transposed,
        )

    def matvec(self, v: Tensor) -> Tensor:
        """K @ v: (*batch, m) or (*batch, m, k) -> (*batch, n) or (*batch, n, k)."""
        single = v.ndim == len(self.batch_shape) + 1
        columns = self._flat(v[..., None] if single else v, self.shape[1])
        out = self._map_rows(lambda block, batch, rows: self._scaled(block, batch, rows) @ columns[batch])
        return out[..., 0] if single else out

    def rmatvec(self, u: Tensor) -> Tensor:
        """Kᵀ @ u: (*batch, n) or (*batch, n, k) -> (*batch, m) or (*batch, m, k)."""
        return self.T.matvec(u)

    def log_matvec(self, log_v: Tensor) -> Tensor:
        """log Σ_j K_ij exp(log_v_j): (*batch, m) -> (*batch, n). Raises ValueError for a signed kernel."""
        self._need_log("log_matvec")
        columns = self._flat(log_v, self.shape[1])[:, None]
        return self._map_rows(
            lambda block, batch, rows: (self._log_scaled(block, batch, rows) + columns[batch]).logsumexp(dim=-1)
        )

    def log_rmatvec(self, log_u: Tensor) -> Tensor:
        """log Σ_i K_ij exp(log_u_i): (*batch, n) -> (*batch, m)."""
        return self.T.log_matvec(log_u)

    def scaled(
        self, log_left: Tensor, log_right: Tensor, *, storage: torch.dtype | None = None, drop: float = 0.0
    ) -> StreamingOperator:
        """diag(exp log_left) K diag(exp log_right): (*batch, n), (*batch, m); entries may be −inf. Nothing overflows
        unless an entry of the product does: all exponents are added before the one exponential. Nothing is stored, so
        there is nothing for `storage` and `drop` to shrink."""
        left, right = self._flat(log_left, self.shape[0]), self._flat(log_right, self.shape[1])
        return attrs.evolve(
            self,
            log_left=left if self.log_left is None else self.log_left + left,
            log_right=right if self.log_right is None else self.log_right + right,
        )

    def sums(self) -> tuple[Tensor, Tensor]:
        """Row and column sums: (*batch, n), (*batch, m)."""
        ones = [torch.ones(*self.batch_shape, size, dtype=self.dtype, device=self.device) for size in self.shape]
        return self.matvec(ones[1]), self.rmatvec(ones[0])

    def log_rows(self, index: Tensor) -> Tensor:
        """log K of the rows `index`: (r,) -> (*batch, r, m). Raises ValueError for a signed kernel."""
        self._need_log("log_rows")
        rows = self._rows(index)
        return rows._map_rows(rows._log_scaled)

    def cost_inner(self, log_left: Tensor, log_right: Tensor) -> Tensor:
        """Σ_ij exp(l_i + r_j) K_ij C_ij: (*batch, n), (*batch, m) -> (*batch,). Not for signed kernels."""
        self._need_log("cost_inner")
        weighted = self.scaled(log_left, log_right)

        def reduce(block: Tensor, batch: slice, rows: slice) -> Tensor:
            weight = weighted._scaled(block, batch, rows)
            # A pair of infinite cost has weight 0, and 0 · ∞ is meant to be 0.
            return torch.where(weight > 0, weight * -block, 0.0).sum(dim=-1)

        return weighted._map_rows(reduce).sum(dim=-1)

    def dense(self) -> Tensor:
        """K itself, (*batch, n, m)."""
        return self._map_rows(self._scaled)

    def error_estimate(self, probes: int = 64, *, seed: int = 0) -> Estimate:
        """Relative l2 error of `matvec` on a normal vector against float64, on `probes` rows drawn with `seed`.

        Streaming is exact up to rounding, so this is the rounding of the dtype; the interval is the delta method's.
        """
        generator = torch.Generator().manual_seed(seed)
        index = torch.randint(self.shape[0], (probes,), generator=generator).to(self.device)
        v = torch.randn(*self.batch_shape, self.shape[1], generator=generator, dtype=torch.float64).to(self.device)
        rows = self._rows(index)
        exact = rows._double().matvec(v)
        errors = (rows.matvec(v.to(self.dtype)).double() - exact).square().flatten()
        sizes = exact.square().flatten()
        ratio, count = errors.sum() / sizes.sum(), errors.numel()
        spread = 1.96 * (count / max(count - 1, 1) * (errors - ratio * sizes).square().sum()).sqrt() / sizes.sum()
        floor = torch.finfo(torch.float64).eps  # the reference is no better than this
        low, value, high = (float((ratio + sign * spread).clamp(min=0).sqrt()) for sign in (-1, 0, 1))
        return Estimate(value=max(value, floor), low=low, high=max(high, floor))

    def _rows(self, index: Tensor) -> StreamingOperator:
        left = None if self.log_left is None else self.log_left[:, index]
        return attrs.evolve(self, x=self.x[:, index], log_left=left)

    def _double(self) -> StreamingOperator:
        def cast(value: Any) -> Any:
            return value.double() if isinstance(value, Tensor) else value

        names = ("x", "y", "log_left", "log_right")
        return attrs.evolve(self, **{name: cast(getattr(self, name)) for name in names}, epsilon=cast(self._epsilon))

    def _need_log(self, method: str) -> None:
        if not self.positive:
            raise ValueError(f"{method}: {type(self.kernel).__name__} is a signed kernel and has no logarithm")

    def _flat(self, vector: Tensor, length: int) -> Tensor:
        """(*batch, length, …) -> (b, length, …)."""
        lead = len(self.batch_shape)
        if vector.shape[lead : lead + 1] != (length,) or vector.ndim > lead + 2:
            wanted = (*self.batch_shape, length)
            raise ValueError(
                f"a vector of shape {wanted}, or with one more dimension, is needed, not {tuple(vector.shape)}"
            )
        return vector.expand(*self.batch_shape, *vector.shape[lead:]).reshape(-1, *vector.shape[lead:])

    def _scaled(self, block: Tensor, batch: slice, rows: slice) -> Tensor:
        """Entries of the operator from a block of the kernel."""
        if self.positive:
            return self._log_scaled(block, batch, rows).exp()
        left = 1.0 if self.log_left is None else self.log_left[batch, rows, None].exp()
        right = 1.0 if self.log_right is None else self.log_right[batch, None, :].exp()
        return left * block * right

    def _log_scaled(self, block: Tensor, batch: slice, rows: slice) -> Tensor:
        epsilon = self._epsilon
        out = block / (epsilon[batch, None, None] if isinstance(epsilon, Tensor) else epsilon)
        if self.log_left is not None:
            out = out + self.log_left[batch, rows, None]
        if self.log_right is not None:
            out = out + self.log_right[batch, None, :]
        return out

    def _map_rows(self, reduce: Reduce) -> Tensor:
        """Concatenate reduce(block) over blocks of rows: -> (*batch, n, …)."""
        n, m = self.shape
        fits = max(1, self.block_bytes // (m * self.x.element_size()))  # rows of K in a block
        problems = min(fits, self.x.shape[0])
        pieces = [
            torch.cat([self._reduce(reduce, batch, rows) for rows in _slices(n, fits // problems)], dim=1)
            for batch in _slices(self.x.shape[0], problems)
        ]
        out = torch.cat(pieces)
        return out.reshape(*self.batch_shape, *out.shape[1:])

    def _reduce(self, reduce: Reduce, batch: slice, rows: slice) -> Tensor:
        def compute() -> Tensor:
            return reduce(self._block(self.x[batch, rows], self.y[batch]), batch, rows)

        if torch.is_grad_enabled():
            # Kept for the backward pass, the blocks would add up to the matrix that is never to be formed.
            out: Tensor = checkpoint(compute, use_reentrant=False, preserve_rng_state=False)
            return out
        return compute()

    def _block(self, x: Tensor, y: Tensor) -> Tensor:
        """log k, or k of a signed kernel, of (b, r, *item) and (b, m, *item): (b, r, m)."""
        evaluate = self.kernel.log_kernel if self.positive else self.kernel.block  # type: ignore[attr-defined]
        if self.transposed:
            x, y = y, x
        out: Tensor = torch.vmap(evaluate)(x, y) if self.batch_shape else evaluate(x[0], y[0])[None]
        return out.mT if self.transposed else out


def _slices(length: int, step: int) -> Iterator[slice]:
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
