"""One operator over several processes: each holds some rows of K, all see the same vectors."""

from __future__ import annotations

import os
from typing import Any

import attrs
import torch
import torch.distributed as dist
from torch import Tensor

from atlas_core import component
from atlas_core.contracts import Estimate, Kernel, KernelOperator
from atlas_kernels_builtin.keeping.content import content_key
from atlas_kernels_builtin.kernels.parts import fit
from atlas_kernels_builtin.kernels.wrapping import SamePairs
from atlas_kernels_builtin.operators import operator_of
from atlas_kernels_builtin.ranks.collectives import SharedInput, total, total_logsumexp


@attrs.frozen
class Sharded(SamePairs):
    """Split the rows of K over the ranks of a distributed run, so that work and memory are shared among them.

    Every rank calls with all the points and gets whole vectors: solvers run unchanged, the same on each. Start the
    script with `torchrun --nproc-per-node=…` and call `torch.distributed.init_process_group` in it. In a process on
    its own this is the kernel inside, as it is.
    """

    kernel: Kernel = component(
        "kernel", default="atlas-kernels-builtin:gaussian", help="The kernel whose operator is split into rows."
    )

    def fitted(self, x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Sharded:
        """Return the same of the fitted kernel (see `Kernel`): what it takes a gradient by, it shares with the rows."""
        given = (x, y, a, b)
        if not _alone():
            given = tuple(None if part is None else SharedInput.apply(part) for part in given)  # type: ignore[assignment]
        return attrs.evolve(self, kernel=fit(self.kernel, *given))

    def operator(self, x: Tensor, y: Tensor, *, epsilon: float | Tensor = 1.0) -> KernelOperator:
        """Return the operator; every rank calls this with the same points x (*batch, n, *item), y (*batch, m, *item).

        Raises ValueError on every rank if their points, ε or kernels differ, or if there are more ranks than rows.
        """
        if _alone():
            return operator_of(self.kernel, x, y, epsilon=epsilon)
        _check_same(self.kernel, x, y, epsilon)
        dim = x.ndim - 1 - self.item_ndim
        size, rank, ranks = x.shape[dim], dist.get_rank(), dist.get_world_size()
        if size < ranks:
            raise ValueError(f"{size} row(s) cannot be split over {ranks} ranks: start fewer")
        rows = slice(size * rank // ranks, size * (rank + 1) // ranks)
        own, y = SharedInput.apply(x).narrow(dim, rows.start, rows.stop - rows.start), SharedInput.apply(y)
        local = operator_of(self.kernel, own, y, epsilon=_shared(epsilon))
        return ShardedOperator(local=local, rows=rows, size=size, epsilon=epsilon)


@attrs.frozen(eq=False)
class ShardedOperator:
    """Apply K with the rows `rows` here and the others elsewhere; every method is called on all ranks together.

    `matvec` computes its own rows and gathers; `rmatvec` sums over the ranks, its logarithm by way of the largest
    exponent of any. What comes back is the same on every rank to the last bit, so that loops stop together.
    """

    local: KernelOperator
    """(rows of this rank, m)."""
    rows: slice
    size: int
    """n, over all ranks."""
    epsilon: float | Tensor
    """As it was given: what solvers make of it they make on every rank, and its gradient must not be summed again."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.size, self.local.shape[1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.local.batch_shape

    @property
    def dtype(self) -> torch.dtype:
        return self.local.dtype

    @property
    def device(self) -> torch.device:
        return self.local.device

    @property
    def positive(self) -> bool:
        return self.local.positive

    @property
    def absorbs(self) -> bool:
        return self.local.absorbs

    def with_epsilon(self, epsilon: float | Tensor) -> ShardedOperator:
        """The kernel of the same points at another ε, without scaling. AttributeError where that of a rank has none."""
        local = self.local.with_epsilon(_shared(epsilon))  # type: ignore[attr-defined]
        return attrs.evolve(self, local=local, epsilon=epsilon)

    def carries_graph(self) -> bool:
        """Whether a product has to be differentiable: the same on every rank; True where a rank cannot tell."""
        local = getattr(self.local, "carries_graph", None)
        return True if local is None else bool(local())

    def matvec(self, v: Tensor) -> Tensor:
        """K @ v: (*batch, m) or (*batch, m, k) -> (*batch, n) or (*batch, n, k)."""
        return self._gathered(self.local.matvec(SharedInput.apply(v)))

    def rmatvec(self, u: Tensor) -> Tensor:
        """Kᵀ @ u: (*batch, n) or (*batch, n, k) -> (*batch, m) or (*batch, m, k)."""
        return total(self.local.rmatvec(self._own(u)))

    def squared_rmatvec(self, u: Tensor) -> Tensor:
        """Σ_i K_ij² u_i: (*batch, n) -> (*batch, m). AttributeError where the operator of a rank has none."""
        return total(self.local.squared_rmatvec(self._own(u)))  # type: ignore[attr-defined]

    def log_matvec(self, log_v: Tensor) -> Tensor:
        """log Σ_j K_ij exp(log_v_j): (*batch, m) -> (*batch, n)."""
        return self._gathered(self.local.log_matvec(SharedInput.apply(log_v)))

    def log_rmatvec(self, log_u: Tensor) -> Tensor:
        """log Σ_i K_ij exp(log_u_i): (*batch, n) -> (*batch, m)."""
        return total_logsumexp(self.local.log_rmatvec(self._own(log_u)))

    def scaled(
        self, log_left: Tensor, log_right: Tensor, *, storage: torch.dtype | None = None, drop: float = 0.0
    ) -> ShardedOperator:
        """diag(exp log_left) K diag(exp log_right), each rank its rows: (*batch, n), (*batch, m)."""
        left, right = self._own(log_left), SharedInput.apply(log_right)
        return attrs.evolve(self, local=self.local.scaled(left, right, storage=storage, drop=drop))

    def sums(self) -> tuple[Tensor, Tensor]:
        """Row and column sums: (*batch, n), (*batch, m)."""
        own_rows, columns = self.local.sums()
        return self._gathered(own_rows), total(columns)

    def log_rows(self, index: Tensor) -> Tensor:
        """log K of the rows `index`: (r,) -> (*batch, r, m)."""
        here = (index >= self.rows.start) & (index < self.rows.stop)
        out = torch.zeros(*self.batch_shape, len(index), self.shape[1], dtype=self.dtype, device=self.device)
        if here.any():
            out[..., here, :] = self.local.log_rows(index[here] - self.rows.start)
        return total(out)

    def cost_inner(self, log_left: Tensor, log_right: Tensor) -> Tensor:
        """Σ_ij exp(l_i + r_j) K_ij C_ij: (*batch, n), (*batch, m) -> (*batch,)."""
        return total(self.local.cost_inner(self._own(log_left), SharedInput.apply(log_right)))

    def dense(self) -> Tensor:
        """K itself, (*batch, n, m), on every rank."""
        return self._gathered(self.local.dense())

    def error_estimate(self, probes: int = 64, *, seed: int = 0) -> Estimate:
        """Relative l2 error of `matvec`: that of each rank's rows, weighted by the square of its share of the product.

        The ends of the ranks' intervals are weighted likewise, which is wider than it need be.
        """
        own = self.local.error_estimate(probes, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        v = torch.randn(*self.batch_shape, self.shape[1], generator=generator, dtype=torch.float64)
        share = self.local.matvec(v.to(self.device, self.dtype)).double().square().sum()
        squares = torch.tensor([own.value**2, own.low**2, own.high**2, 1.0], dtype=torch.float64, device=self.device)
        value, low, high, weight = total(share * squares).tolist()
        return Estimate(value=(value / weight) ** 0.5, low=(low / weight) ** 0.5, high=(high / weight) ** 0.5)

    def _own(self, u: Tensor) -> Tensor:
        """(*batch, n, …) -> (*batch, rows, …)."""
        lead = len(self.batch_shape)
        if u.shape[lead : lead + 1] != (self.size,):
            raise ValueError(f"a vector of shape {(*self.batch_shape, self.size)} is needed, not {tuple(u.shape)}")
        shared: Tensor = SharedInput.apply(u)
        return shared.narrow(lead, self.rows.start, self.rows.stop - self.rows.start)

    def _gathered(self, own: Tensor) -> Tensor:
        """(*batch, rows, …) -> (*batch, n, …): zeros where other ranks have their rows, summed."""
        after = own.ndim - 1 - len(self.batch_shape)
        padding = [0, 0] * after + [self.rows.start, self.size - self.rows.stop]
        return total(torch.nn.functional.pad(own, padding))


def _shared(epsilon: float | Tensor) -> float | Tensor:
    """ε for a rank's own rows: its gradient is the sum of all ranks'."""
    return SharedInput.apply(epsilon) if isinstance(epsilon, Tensor) else epsilon


def _alone() -> bool:
    """True in a process on its own. Raises ValueError in one of several that has not joined the others."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size() == 1
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        raise ValueError(
            f"sharded: this is one of {ranks} ranks, and there is no process group: call "
            "torch.distributed.init_process_group() first"
        )
    return True


def _check_same(kernel: Kernel, *values: Any) -> None:
    """Raise ValueError, on every rank, unless all hold the same to the last bit: otherwise the answer were no one's."""
    detached = [value.detach() if isinstance(value, Tensor) else value for value in values]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, (repr(kernel), repr(content_key(*detached))))
    for what, keys in zip(("kernels", "points or ε"), zip(*found, strict=True), strict=True):
        others = [rank for rank, key in enumerate(keys) if key != keys[0]]
        if others:
            raise ValueError(
                f"sharded: rank(s) {', '.join(map(str, others))} hold other {what} than rank 0: pass all the points, "
                "the same on every rank (set the seed of what draws them)"
            )
