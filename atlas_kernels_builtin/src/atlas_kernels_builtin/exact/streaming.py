"""The operator that every kernel gets: exact, in blocks, so that the Gram matrix is never in memory at once."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Estimate, Kernel
from atlas_kernels_builtin.exact import passes
from atlas_kernels_builtin.exact.accuracy import ROUNDED, coarse_dtype
from atlas_kernels_builtin.exact.attached import AttachedProducts
from atlas_kernels_builtin.exact.blocks import Blocks, Exponents
from atlas_kernels_builtin.exact.checks import check_epsilon, check_range, common_batch, flatten_vector
from atlas_kernels_builtin.exact.engines import engine_of, fused_log_sum, fused_product
from atlas_kernels_builtin.exact.estimate import rounding_error
from atlas_kernels_builtin.exact.points import Points
from atlas_kernels_builtin.exact.tiles import Tile

MOST_BLOCKS = 16
"""Blocks that a band of rows may take that is kept for a second product."""


def stream(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float | Tensor = 1.0,
    block_bytes: int | None = None,
    reason: str = "asked for",
) -> StreamingOperator:
    """Return the streaming operator itself, whatever the kernel offers; `block_bytes` bounds one block of K."""
    batch = common_batch(kernel, x, y)
    check_range(kernel, x, y)
    epsilon = check_epsilon(kernel, epsilon, batch, x)
    count = math.prod(batch)
    flat = [p.expand(*batch, *p.shape[-1 - kernel.item_ndim :]) for p in (x, y)]
    flat_x, flat_y = (p.reshape(count, *p.shape[len(batch) :]) for p in flat)
    if block_bytes is None:
        # On a CPU a block should stay near the caches; an accelerator wants few, large launches.
        block_bytes = 2**23 if x.device.type == "cpu" else 2**28
    return StreamingOperator(
        kernel=kernel,
        x=flat_x,
        y=flat_y,
        batch_shape=batch,
        flat_epsilon=epsilon,
        block_bytes=block_bytes,
        reason=reason,
    )


@attrs.frozen(eq=False, slots=False)
class StreamingOperator:
    """Apply diag(exp log_left) K diag(exp log_right) block by block: any kernel, any size, no approximation.

    Extra memory is O(n + m) and a few blocks of `block_bytes`. Where a gradient is asked for, blocks are recomputed in
    the backward pass rather than kept. Made by `operator_of`, by `stream`, or by the kernel `streaming`.
    """

    absorbs = True
    wide_scalings = True

    kernel: Kernel
    x: Tensor
    """(b, n, *item), the batch flattened."""
    y: Tensor
    """(b, m, *item)."""
    batch_shape: tuple[int, ...]
    flat_epsilon: float | Tensor
    """A number, or (b,)."""
    block_bytes: int
    log_left: Tensor | None = None
    """(b, n): scaling of the rows; −inf switches a row off."""
    log_right: Tensor | None = None
    """(b, m)."""
    storage: torch.dtype | None = None
    """What products are computed in; `dtype` where None."""
    accuracy: float | None = None
    """Relative error that entries, hence sums, may have; the rounding of `dtype` where None."""
    reason: str = "asked for"
    """Why entries are not stored."""
    points: Points = attrs.field(repr=False)
    """x and y without a graph, and what is known about them: shared by all operators of these points."""
    _blocks: dict[Any, Blocks] = attrs.field(factory=dict, repr=False)

    @points.default
    def _points(self) -> Points:
        return Points(self.x.detach(), self.y.detach())

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
        epsilon = self.flat_epsilon
        return epsilon.reshape(self.batch_shape) if isinstance(epsilon, Tensor) else epsilon

    @property
    def positive(self) -> bool:
        return self.kernel.has_log

    @property
    def engine(self) -> str:
        """`triton`: products with one vector are one fused pass on the GPU; `torch`: they go tile by tile."""
        return engine_of(self)

    def with_epsilon(self, epsilon: float | Tensor) -> StreamingOperator:
        """The kernel of the same points at another ε, without scaling: what was found out about them is kept."""
        flat = check_epsilon(self.kernel, epsilon, self.batch_shape, self.x)
        return attrs.evolve(
            self, flat_epsilon=flat, log_left=None, log_right=None, storage=None, accuracy=None, blocks={}
        )

    def matvec(self, v: Tensor) -> Tensor:
        """K @ v: (*batch, m) or (*batch, m, k) -> (*batch, n) or (*batch, n, k), in the dtype of v."""
        return self._product(v, transpose=False)

    def rmatvec(self, u: Tensor) -> Tensor:
        """Kᵀ @ u: (*batch, n) or (*batch, n, k) -> (*batch, m) or (*batch, m, k), in the dtype of u."""
        return self._product(u, transpose=True)

    def log_matvec(self, log_v: Tensor) -> Tensor:
        """log Σ_j K_ij exp(log_v_j): (*batch, m) -> (*batch, n). Raises ValueError for a signed kernel."""
        return self._log_sum(log_v, transpose=False)

    def log_rmatvec(self, log_u: Tensor) -> Tensor:
        """log Σ_i K_ij exp(log_u_i): (*batch, n) -> (*batch, m)."""
        return self._log_sum(log_u, transpose=True)

    def scaled(
        self,
        log_left: Tensor,
        log_right: Tensor,
        *,
        storage: torch.dtype | None = None,
        drop: float = 0.0,
        accuracy: float | None = None,
    ) -> StreamingOperator:
        """diag(exp log_left) K diag(exp log_right): (*batch, n), (*batch, m); entries may be −inf. Nothing overflows
        unless an entry of the product does: all exponents are added before the one exponential.

        Nothing is stored, so there is nothing to `drop`; products are computed in `storage`, in this dtype where None.
        `accuracy` is the relative error that entries, hence sums and their logarithms, may have: from 1e-6 on they are
        computed in float32, and added up in this dtype.
        """
        left, right = self._flat(log_left, self.shape[0]), self._flat(log_right, self.shape[1])
        return attrs.evolve(
            self,
            log_left=left if self.log_left is None else self.log_left + left,
            log_right=right if self.log_right is None else self.log_right + right,
            storage=storage,
            accuracy=accuracy,
        )

    def take(self, rows: Tensor | None = None, columns: Tensor | None = None) -> StreamingOperator:
        """K of some of the points, with what is scaled: (r,), (c,) -> an operator of shape (r, c); all where None."""

        def of(values: Any, index: Tensor | None) -> Any:
            return values if values is None or index is None else values[:, index]

        x, y = of(self.x, rows), of(self.y, columns)
        left, right = of(self.log_left, rows), of(self.log_right, columns)
        points = Points(x.detach(), y.detach())
        return attrs.evolve(self, x=x, y=y, log_left=left, log_right=right, points=points, blocks={})

    def gram(self, v: Tensor, weights: Tensor) -> Tensor:
        """Kᵀ diag(weights) K v, (*batch, m), (*batch, n) -> (*batch, m), without a graph: entries are made once."""
        if self.engine == "triton":  # two fused passes, which keep nothing in memory
            return self.rmatvec(weights * self.matvec(v))
        with torch.no_grad():
            exponents = self._of_products
            flat, inner = (
                self._flat(part, size).to(exponents.like)
                for part, size in zip((v, weights), self.shape[::-1], strict=True)
            )
            # The more coordinates there are, the more a matrix product gains from further rows.
            tiles = exponents.blocks.tiles(
                self.block_bytes, blocks=min(MOST_BLOCKS, 2 + self.points.x[0, 0].numel() // 4)
            )
            return self._shaped(passes.gram(exponents, tiles, flat, inner)).to(v.dtype)

    def sums(self) -> tuple[Tensor, Tensor]:
        """Row and column sums: (*batch, n), (*batch, m)."""
        if self.carries_graph():
            ones = [torch.ones(*self.batch_shape, size, dtype=self.dtype, device=self.device) for size in self.shape]
            return self.matvec(ones[1]), self.rmatvec(ones[0])
        with torch.no_grad():
            exponents = self.exponents(dtype=coarse_dtype(self.accuracy), accuracy=self.accuracy)
            rows, columns = passes.sums(exponents, self.tiles(exponents), self.x)
        return self._shaped(rows), self._shaped(columns)

    def log_rows(self, index: Tensor) -> Tensor:
        """log K of the rows `index`: (r,) -> (*batch, r, m). Raises ValueError for a signed kernel."""
        self._need_log("log_rows")
        left = None if self.log_left is None else self.log_left[:, index]
        # Without a graph no block is checkpointed, which would import a compiler first.
        with torch.set_grad_enabled(self.carries_graph()):
            return self._shaped(attrs.evolve(self._attached, x=self.x[:, index], left=left).log_rows())

    def cost_inner(self, log_left: Tensor, log_right: Tensor) -> Tensor:
        """Σ_ij exp(l_i + r_j) K_ij C_ij: (*batch, n), (*batch, m) -> (*batch,). Not for signed kernels."""
        self._need_log("cost_inner")
        weighted = self.scaled(log_left, log_right)
        if weighted.carries_graph():
            return self._shaped(weighted._attached.cost_rows().sum(dim=-1))
        with torch.no_grad():
            exponents = weighted.exponents()
            plain = exponents.blocks.exponents(None, None)
            out = passes.cost(plain, exponents, self.tiles(exponents), self.x)
            return self._shaped(out * self.flat_epsilon)

    def dense(self) -> Tensor:
        """K itself, (*batch, n, m)."""
        if self.carries_graph():
            return self._shaped(self._attached.dense())
        with torch.no_grad():
            out = self.x.new_empty(self.x.shape[0], *self.shape)
            exponents = self.exponents()
            for tile, buffer in passes.walk(self.tiles(exponents), self.x):
                out[tile.batch, tile.rows, tile.columns] = exponents.entries(tile, buffer)
            return self._shaped(out)

    def error_estimate(self, probes: int = 64, *, seed: int = 0) -> Estimate:
        """Relative l2 error of `matvec` on a normal vector against float64, on `probes` rows drawn with `seed`.

        Streaming is exact up to rounding, so this is the rounding of the dtype.
        """
        return rounding_error(self, self.exact_rows, probes, seed)

    @torch.no_grad()
    def exact_rows(self, index: Tensor) -> Tensor:
        """Rows of K in float64, distances by subtraction: (r,) -> (*batch, r, m)."""
        left = None if self.log_left is None else self.log_left[:, index].double()
        right = None if self.log_right is None else self.log_right.double()
        epsilon = self.flat_epsilon.double() if isinstance(self.flat_epsilon, Tensor) else self.flat_epsilon
        x, y = self.x[:, index].double(), self.y.double()
        exact = attrs.evolve(self._attached, x=x, y=y, left=left, right=right, epsilon=epsilon)
        return self._shaped(exact.dense())

    def exponents(
        self,
        *,
        dtype: torch.dtype | None = None,
        accuracy: float | None = None,
        log_left: Tensor | None = None,
        log_right: Tensor | None = None,
    ) -> Exponents:
        """What fills blocks of `dtype` with the exponents of this operator, more scaling (b, n), (b, m) on top."""
        key = dtype or self.dtype, accuracy
        if key not in self._blocks:
            epsilon = torch.as_tensor(self.flat_epsilon, dtype=torch.float64, device=self.device).detach()
            self._blocks[key] = Blocks(self.kernel, self.points, epsilon.expand(self.x.shape[0]), *key)
        left, right = (
            more if own is None else own if more is None else own + more
            for own, more in ((self.log_left, log_left), (self.log_right, log_right))
        )
        return self._blocks[key].exponents(left, right)

    def tiles(self, exponents: Exponents, *, whole_rows: bool = False) -> list[Tile]:
        """How the matrix is cut for them."""
        return exponents.blocks.tiles(self.block_bytes, whole_rows=whole_rows)

    def _product(self, vector: Tensor, *, transpose: bool) -> Tensor:
        single = vector.ndim == len(self.batch_shape) + 1
        flat = self._flat(vector[..., None] if single else vector, self.shape[0 if transpose else 1])
        if self.carries_graph(vector):
            attached = self._attached.T if transpose else self._attached
            out = attached.matvec(flat.to(self.dtype))
        else:
            with torch.no_grad():
                out = self._streamed(flat, transpose)
        out = self._shaped(out).to(vector.dtype)
        return out[..., 0] if single else out

    def _streamed(self, vectors: Tensor, transpose: bool) -> Tensor:
        if engine_of(self, vectors.shape[2]) == "triton":
            return fused_product(self, vectors, transpose=transpose)
        exponents = self._of_products
        return passes.product(exponents, self.tiles(exponents), vectors.to(exponents.like), transpose=transpose)

    @property
    def _of_products(self) -> Exponents:
        """Entries as products take them: what is rounded to less than the points are need not be made exactly."""
        rounded = self.storage not in (None, self.dtype)
        return self.exponents(dtype=self.storage, accuracy=(self.accuracy or ROUNDED) if rounded else self.accuracy)

    def _log_sum(self, log_vector: Tensor, *, transpose: bool) -> Tensor:
        self._need_log("log_rmatvec" if transpose else "log_matvec")
        flat = self._flat(log_vector, self.shape[0 if transpose else 1]).to(self.dtype)
        if self.carries_graph(log_vector):
            return self._shaped((self._attached.T if transpose else self._attached).log_matvec(flat))
        with torch.no_grad():
            if self.engine == "triton":
                return self._shaped(fused_log_sum(self, flat, transpose=transpose))
            more = {"log_left": flat} if transpose else {"log_right": flat}
            exponents = self.exponents(dtype=coarse_dtype(self.accuracy), accuracy=self.accuracy, **more)
            out = passes.log_sum(exponents, self.tiles(exponents), over_rows=transpose)
            return self._shaped(out.to(self.dtype))

    def carries_graph(self, *vectors: Tensor) -> bool:
        """Whether a product has to be differentiable."""
        if not torch.is_grad_enabled():
            return False
        tensors = (self.x, self.y, self.flat_epsilon, self.log_left, self.log_right, *vectors)
        return any(isinstance(t, Tensor) and t.requires_grad for t in tensors) or self._kernel_learns

    @cached_property
    def _kernel_learns(self) -> bool:
        """Whether the kernel holds parameters of its own, which only its result can tell."""
        evaluate = self.kernel.log_kernel if self.positive else self.kernel.block  # type: ignore[attr-defined]
        return bool(evaluate(self.points.x[0, :1], self.points.y[0, :1]).requires_grad)

    @property
    def _attached(self) -> AttachedProducts:
        # Here blocks are whole rows and pass through the kernel's own temporaries: fewer and larger ones.
        block_bytes = self.block_bytes * 4
        return AttachedProducts(
            self.kernel, self.x, self.y, self.flat_epsilon, self.log_left, self.log_right, block_bytes
        )

    def _need_log(self, method: str) -> None:
        if not self.positive:
            raise ValueError(f"{method}: {type(self.kernel).__name__} is a signed kernel and has no logarithm")

    def _flat(self, vector: Tensor, length: int) -> Tensor:
        return flatten_vector(vector, length, self.batch_shape)

    def _shaped(self, flat: Tensor) -> Tensor:
        """(b, …) -> (*batch, …)."""
        return flat.reshape((*self.batch_shape, *flat.shape[1:]))
