"""The operator whose entries are in memory: a product is one matrix-vector product, however often it is asked for."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Estimate, Kernel
from atlas_kernels_builtin.exact.accuracy import coarse_dtype
from atlas_kernels_builtin.exact.checks import flatten_vector
from atlas_kernels_builtin.exact.estimate import rounding_error
from atlas_kernels_builtin.exact.stored import (
    SPARSE_BELOW,
    DenseMatrix,
    Stored,
    build_dense,
    build_sparse,
    change_of,
    kept_share,
    power_of,
    rescale,
)
from atlas_kernels_builtin.exact.streaming import StreamingOperator, stream

RESCALE_FROM = 32
"""Dimension from which multiplying stored entries is faster than forming distances anew."""
RESCALE_TIMES = 8
"""Rescalings, each a rounding, before entries are computed anew."""
RAISE_FROM = 16
"""Dimension from which raising stored entries to a power, for a smaller ε, is faster than forming distances anew."""
RAISE_LIMIT = 64
"""Largest power that entries are raised to before they are computed anew: their relative errors grow with it."""
RESCALE_RANGE = 30.0
"""Largest change of an exponent by rescaling: float32 entries that had underflowed still do not matter then."""


@attrs.define(eq=False)
class Store:
    """Memory that the operators of one family use in turn, and what is in it now."""

    buffer: Tensor | None = None
    stored: Stored | None = None
    owner: object = None
    """The mark of the operator that is stored; not itself, which would keep both alive."""
    waiting: object = None
    """The mark of the operator whose first product was streamed."""
    source: StreamingOperator | None = None
    """The operator whose entries were stored, for what `rescale` has to multiply with."""
    rescaled: int = 0
    power: int = 1
    """What they have been raised to since they were computed."""

    def room(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """The memory, made anew only if it does not fit."""
        if self.buffer is None or self.buffer.shape != shape or self.buffer.dtype != dtype:
            self.clear()  # freed before the new one is made
            self.buffer = torch.empty(shape, dtype=dtype, device=device)
        self.stored = self.owner = None
        return self.buffer

    def clear(self) -> None:
        """Let go of what is stored, and of the memory."""
        self.buffer = self.stored = self.owner = None


@attrs.frozen(eq=False)
class DenseOperator:
    """Apply an exact operator from stored entries: made once, at the first product or sum, then multiplied with.

    Entries are stored in `storage`; sums are taken before they are rounded to it. With `drop`, where `PROBES` rows show
    that few entries are as large, only those are stored, by rows and by columns. Logarithms, costs and whatever needs
    a graph of the points are streamed by `source`.
    """

    absorbs = True
    wide_scalings = True

    source: StreamingOperator
    storage: torch.dtype
    drop: float = 0.0
    accuracy: float | None = None
    """Relative error that entries may have; the rounding of `dtype` where None."""
    sparse: bool = True
    eager: bool = True
    """False: the first product is streamed, since a second one may never come; sums are always stored."""
    reason: str = "asked for"
    """Why entries are stored."""
    store: Store = attrs.field(factory=Store, repr=False)
    _mark: object = attrs.field(init=False, factory=object, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        return self.source.shape

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.source.batch_shape

    @property
    def dtype(self) -> torch.dtype:
        return self.source.dtype

    @property
    def device(self) -> torch.device:
        return self.source.device

    @property
    def epsilon(self) -> float | Tensor:
        return self.source.epsilon

    @property
    def positive(self) -> bool:
        return self.source.positive

    def with_epsilon(self, epsilon: float | Tensor) -> DenseOperator:
        """The kernel of the same points at another ε, without scaling, in the same memory."""
        return attrs.evolve(self, source=self.source.with_epsilon(epsilon), drop=0.0, accuracy=None)

    def scaled(
        self,
        log_left: Tensor,
        log_right: Tensor,
        *,
        storage: torch.dtype | None = None,
        drop: float = 0.0,
        accuracy: float | None = None,
    ) -> DenseOperator:
        """diag(exp log_left) K diag(exp log_right), without overflow: (*batch, n), (*batch, m).

        Entries are stored in `storage` and those below `drop` may be left out. Given a `storage`, all operators made so
        from this one use the same memory in turn: the last one used holds it, another computes its entries anew when
        it is used again. `accuracy` is the relative error that entries, hence sums, may have: from 1e-6 on they are
        computed in float32, and in high dimension the entries in memory are rescaled, or raised to a power for
        another ε, rather than made anew.
        """
        return attrs.evolve(
            self,
            source=self.source.scaled(log_left, log_right),
            storage=storage or self.storage,
            drop=drop,
            accuracy=accuracy,
            eager=self.eager or storage is not None,
            store=Store() if storage is None else self.store,
        )

    def matvec(self, v: Tensor) -> Tensor:
        """K @ v: (*batch, m) or (*batch, m, k) -> (*batch, n) or (*batch, n, k), in the dtype of v."""
        return self._product(v, "product", self.shape[1])

    def rmatvec(self, u: Tensor) -> Tensor:
        """Kᵀ @ u: (*batch, n) or (*batch, n, k) -> (*batch, m) or (*batch, m, k), in the dtype of u."""
        return self._product(u, "transposed_product", self.shape[0])

    def gram(self, v: Tensor, weights: Tensor) -> Tensor:
        """Kᵀ diag(weights) K v, (*batch, m), (*batch, n) -> (*batch, m), without a graph: entries are read once."""
        with torch.no_grad():
            flat, inner = (
                flatten_vector(part, size, self.batch_shape)[..., None].to(self.storage)
                for part, size in zip((v, weights), self.shape[::-1], strict=True)
            )
            out = self._stored().matrix.gram(flat, inner)
            return out.reshape(*self.batch_shape, -1).to(v.dtype)

    def squared_rmatvec(self, u: Tensor) -> Tensor:
        """Σ_i K_ij² u_i: (*batch, n) or (*batch, n, k) -> (*batch, m) or (*batch, m, k), without a graph."""
        with torch.no_grad():
            return self._product(u, "transposed_product_of_squares", self.shape[0])

    def log_matvec(self, log_v: Tensor) -> Tensor:
        """log Σ_j K_ij exp(log_v_j), streamed: (*batch, m) -> (*batch, n)."""
        return self.source.log_matvec(log_v)

    def log_rmatvec(self, log_u: Tensor) -> Tensor:
        """log Σ_i K_ij exp(log_u_i), streamed: (*batch, n) -> (*batch, m)."""
        return self.source.log_rmatvec(log_u)

    def sums(self) -> tuple[Tensor, Tensor]:
        """Row and column sums, (*batch, n) and (*batch, m), in `dtype` whatever the storage; free once stored."""
        if self.carries_graph():
            return self.source.sums()
        stored = self._stored()
        rows, columns = stored.rows, stored.columns
        return rows.reshape((*self.batch_shape, -1)), columns.reshape((*self.batch_shape, -1))

    def log_rows(self, index: Tensor) -> Tensor:
        """log K of the rows `index`: (r,) -> (*batch, r, m)."""
        return self.source.log_rows(index)

    def cost_inner(self, log_left: Tensor, log_right: Tensor) -> Tensor:
        """Σ_ij exp(l_i + r_j) K_ij C_ij, streamed: (*batch, n), (*batch, m) -> (*batch,)."""
        return self.source.cost_inner(log_left, log_right)

    def dense(self) -> Tensor:
        """K itself, (*batch, n, m), a copy."""
        return self.source.dense()

    def error_estimate(self, probes: int = 64, *, seed: int = 0) -> Estimate:
        """Relative l2 error of `matvec`: what rounding to `storage` and what was dropped cost."""
        return rounding_error(self, self.source.exact_rows, probes, seed)

    def _product(self, vector: Tensor, name: str, length: int) -> Tensor:
        streamed = {"product": self.source.matvec, "transposed_product": self.source.rmatvec}.get(name)
        if streamed is not None and (self.carries_graph() or self._is_first()):
            return streamed(vector)
        matrix = self._stored().matrix
        differentiable = isinstance(matrix, DenseMatrix) or not (torch.is_grad_enabled() and vector.requires_grad)
        if streamed is not None and not differentiable:
            return streamed(vector)
        single = vector.ndim == len(self.batch_shape) + 1
        flat = flatten_vector(vector[..., None] if single else vector, length, self.batch_shape)
        out: Tensor = getattr(matrix, name)(flat.to(self.storage))
        out = out.reshape((*self.batch_shape, *out.shape[1:])).to(vector.dtype)
        return out[..., 0] if single else out

    def carries_graph(self, *vectors: Tensor) -> bool:
        """Whether a product has to be differentiable."""
        return self.source.carries_graph(*vectors)

    def _is_first(self) -> bool:
        """Whether to stream this product and wait for another."""
        first = not self.eager and self.store.owner is not self._mark and self.store.waiting is not self._mark
        self.store.waiting = self._mark
        return first

    @torch.no_grad()
    def _stored(self) -> Stored:
        """The entries: in memory already, or made now."""
        store = self.store
        if store.owner is not self._mark or store.stored is None:
            stored = self._rescaled(store)
            store.rescaled = 0 if stored is None else store.rescaled + 1
            store.power = 1 if stored is None else store.power
            store.stored = self._build(store) if stored is None else stored
            store.owner, store.source = self._mark, self.source
        return store.stored

    def _build(self, store: Store) -> Stored:
        dtype = coarse_dtype(self.accuracy)
        exponents = self.source.exponents(dtype=dtype, accuracy=None if dtype is None else self.accuracy)
        count, (n, m) = self.source.x.shape[0], self.shape
        if self.sparse and self.drop > 0 and count == 1 and kept_share(exponents, self.drop) < SPARSE_BELOW:
            store.clear()
            tiles = self.source.tiles(exponents, whole_rows=True)
            found = build_sparse(exponents, tiles, self.storage, self.drop, self.dtype)
            if found is not None:
                return found
        tiles = self.source.tiles(exponents)
        return build_dense(exponents, tiles, store.room((count, n, m), self.storage, self.device), self.dtype)

    def _rescaled(self, store: Store) -> Stored | None:
        """The entries in memory, to the power ε_old / ε_new, times what else l and r have changed by, if faster."""
        old, new = store.source, self.source
        if (
            coarse_dtype(self.accuracy) is None
            or old is None
            or store.stored is None
            or store.rescaled >= RESCALE_TIMES
            or not isinstance(store.stored.matrix, DenseMatrix)
            or store.stored.matrix.entries.dtype != self.storage
            or old.points is not new.points
            or (power := power_of(old.flat_epsilon, new.flat_epsilon)) is None
            or power * store.power > RAISE_LIMIT
            or new.x.flatten(2).shape[2] < (RESCALE_FROM if power == 1 else RAISE_FROM)
        ):
            return None
        scalings = ((old.log_left, new.log_left), (old.log_right, new.log_right))
        changes = [change_of(None if before is None else power * before, after) for before, after in scalings]
        left, right = (new.x.new_zeros(1, 1) if change is None else change for change in changes)
        # What had underflowed has, raised to a power, even further to come back.
        if not float(left.abs().amax() + right.abs().amax()) < RESCALE_RANGE * power:
            return None
        left, right = left.expand(new.x.shape[:2]), right.expand(new.y.shape[:2])
        store.owner = None
        store.power *= power
        entries = self.source.block_bytes // self.storage.itemsize
        return rescale(store.stored, left, right, entries, power.bit_length() - 1)


def dense_operator(
    kernel: Kernel,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float | Tensor = 1.0,
    storage: torch.dtype | None = None,
    sparse: bool = True,
    eager: bool = True,
    reason: str = "asked for",
) -> DenseOperator:
    """Return the operator that stores its entries, in the dtype of the points where `storage` is None."""
    source = stream(kernel, x, y, epsilon=epsilon, reason="the entries are stored beside it")
    return DenseOperator(source, storage or x.dtype, sparse=sparse, eager=eager, reason=reason)
