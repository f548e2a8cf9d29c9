"""Products of a streamed kernel with a graph: blocks are recomputed in the backward pass, never kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from atlas_core.contracts import Kernel
from atlas_kernels_builtin.exact.checks import check_block

Reduce = Callable[[Tensor, slice, slice], Tensor]
"""(block of log k, or of a signed k: (b, r, m), batch slice, row slice) -> (b, r, …)."""


@attrs.frozen(eq=False)
class AttachedProducts:
    """What `StreamingOperator` computes, differentiably: in x, y, ε, l, r, the vectors, and what the kernel holds.

    All flattened: x (b, n, *item), y (b, m, *item), ε () or (b,), l (b, n), r (b, m).
    """

    kernel: Kernel
    x: Tensor
    y: Tensor
    epsilon: float | Tensor
    left: Tensor | None
    right: Tensor | None
    block_bytes: int
    transposed: bool = False
    """True: x and y are swapped, and the kernel is called as k(y, x)."""

    @property
    def T(self) -> AttachedProducts:  # noqa: N802 - torch's name for it
        """Kᵀ, of shape (m, n)."""
        return attrs.evolve(self, x=self.y, y=self.x, left=self.right, right=self.left, transposed=not self.transposed)

    def matvec(self, v: Tensor) -> Tensor:
        """(b, m, k) -> (b, n, k)."""
        return self._map_rows(lambda block, batch, rows: self.entries(block, batch, rows) @ v[batch])

    def log_matvec(self, log_v: Tensor) -> Tensor:
        """(b, m) -> (b, n)."""
        return self._map_rows(
            lambda block, batch, rows: (self.exponents(block, batch, rows) + log_v[batch, None]).logsumexp(dim=-1)
        )

    def log_rows(self) -> Tensor:
        """(b, n, m)."""
        return self._map_rows(self.exponents)

    def dense(self) -> Tensor:
        """(b, n, m)."""
        return self._map_rows(self.entries)

    def cost_rows(self) -> Tensor:
        """Σ_j K_ij C_ij with the l and r in K and not in C: (b, n)."""

        def reduce(block: Tensor, batch: slice, rows: slice) -> Tensor:
            weight = self.entries(block, batch, rows)
            # A pair of infinite cost has weight 0, and 0 · ∞ is meant to be 0.
            return torch.where(weight > 0, weight * -block, 0.0).sum(dim=-1)

        return self._map_rows(reduce)

    def entries(self, block: Tensor, batch: slice, rows: slice) -> Tensor:
        """Entries of the operator from a block of the kernel."""
        if self.kernel.has_log:
            return self.exponents(block, batch, rows).exp()
        left = 1.0 if self.left is None else self.left[batch, rows, None].exp()
        right = 1.0 if self.right is None else self.right[batch, None, :].exp()
        return left * block * right

    def exponents(self, block: Tensor, batch: slice, rows: slice) -> Tensor:
        """log k / ε + l + r."""
        epsilon = self.epsilon
        out = block / (epsilon[batch, None, None] if isinstance(epsilon, Tensor) else epsilon)
        if self.left is not None:
            out = out + self.left[batch, rows, None]
        if self.right is not None:
            out = out + self.right[batch, None, :]
        return out

    def _map_rows(self, reduce: Reduce) -> Tensor:
        """Concatenate reduce(block) over blocks of rows: -> (b, n, …)."""
        n, m = self.x.shape[1], self.y.shape[1]
        fits = max(1, self.block_bytes // (m * self.x.element_size()))  # rows of K in a block
        problems = min(fits, self.x.shape[0])
        pieces = [
            torch.cat([self._reduce(reduce, batch, rows) for rows in _slices(n, fits // problems)], dim=1)
            for batch in _slices(self.x.shape[0], problems)
        ]
        return torch.cat(pieces)

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
        evaluate = self.kernel.log_kernel if self.kernel.has_log else self.kernel.block  # type: ignore[attr-defined]
        if self.transposed:
            x, y = y, x
        out: Tensor = evaluate(x[0], y[0])[None] if x.shape[0] == 1 else torch.vmap(evaluate)(x, y)
        check_block(self.kernel, out, (x.shape[0], x.shape[1], y.shape[1]))
        return out.mT if self.transposed else out


def _slices(length: int, step: int) -> Iterator[slice]:
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
