"""The operator of every approximation: K ≈ A M Bᵀ of rank r, so that a product costs (n + m) r instead of n m."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Estimate
from atlas_kernels_builtin.approximate.exact import Exact, relative_error
from atlas_kernels_builtin.exact.checks import check_real

CHUNK = 2**22
"""Entries of a temporary, where one would be larger than the factors."""
PILOT_COLUMNS = 32
"""Columns on which the rows are looked at before some are probed."""


@attrs.frozen(eq=False, slots=False)
class LowRankOperator:
    """Apply A Bᵀ, or A M Bᵀ with a small M. With `logarithmic` factors, log A and log B, it is positive and works at
    any ε as an exact one does.

    Otherwise entries may be negative: there is then no logarithm, and scaling solvers refuse it (`positive`). Sums,
    costs and rows are those of A Bᵀ, not of the kernel: C = −ε log (A Bᵀ). `error_estimate` says how far it is off.
    """

    absorbs = True

    exact: Exact
    left: Tensor
    """A, or log A: (*batch, n, r)."""
    right: Tensor
    """B, or log B: (*batch, m, r)."""
    logarithmic: bool
    name: str
    """Of the approximation, for errors."""
    middle: Tensor | None = None
    """M, (*batch, r, r), in float64; None: the identity, as it always is with logarithmic factors."""
    own: Callable[[], Sequence[Tensor]] | None = None
    """How far each row of each problem may be off, (n,), in any unit, where that is known: the odds of a probe."""
    log_scales: tuple[Tensor, Tensor] | None = None
    """What `scaled` has multiplied with, (*batch, n) and (*batch, m); the factors contain it."""
    storage: torch.dtype | None = None
    """What products are computed in; None: the dtype of the points."""

    @classmethod
    def of(
        cls,
        exact: Exact,
        factors: Sequence[tuple[Tensor, Tensor]],
        *,
        logarithmic: bool,
        name: str,
        middles: Sequence[Tensor | None] = (),
        own: Callable[[], Sequence[Tensor]] | None = None,
    ) -> LowRankOperator:
        """Make it of the factors of each problem, (n, r) and (m, r), whose r may differ if they are not logarithmic."""
        rank = max(left.shape[-1] for left, _ in factors)
        sides = [_stacked(side, rank) for side in zip(*factors, strict=True)]
        left, right = (side.reshape(*exact.batch_shape, *side.shape[1:]) for side in sides)
        middle = None
        if any(one is not None for one in middles):
            unit = torch.eye(rank, dtype=torch.float64, device=left.device)
            padded = [unit if one is None else _padded(one, rank) for one in middles]
            middle = torch.stack(padded).reshape(*exact.batch_shape, rank, rank)
        return cls(exact, left, right, logarithmic=logarithmic, name=name, middle=middle, own=own)

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[-2], self.right.shape[-2]

    @property
    def rank(self) -> int:
        """Columns of the factors."""
        return self.left.shape[-1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.exact.batch_shape

    @property
    def dtype(self) -> torch.dtype:
        return self.left.dtype

    @property
    def device(self) -> torch.device:
        return self.left.device

    @property
    def epsilon(self) -> float | Tensor:
        return self.exact.epsilon

    @property
    def positive(self) -> bool:
        return self.logarithmic

    @functools.cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        """A and B themselves, in `storage`."""
        left, right = self._factors()
        return left.to(self.storage or self.dtype), right.to(self.storage or self.dtype)

    def matvec(self, v: Tensor) -> Tensor:
        """K @ v: (*batch, m) or (*batch, m, k) -> (*batch, n) or (*batch, n, k)."""
        return _apply(self.factors[0], self.middle, self.factors[1], v, self.batch_shape)

    def rmatvec(self, u: Tensor) -> Tensor:
        """Kᵀ @ u: (*batch, n) or (*batch, n, k) -> (*batch, m) or (*batch, m, k)."""
        middle = None if self.middle is None else self.middle.mT
        return _apply(self.factors[1], middle, self.factors[0], u, self.batch_shape)

    def log_matvec(self, log_v: Tensor) -> Tensor:
        """log Σ_j K_ij exp(log_v_j): (*batch, m) -> (*batch, n). Raises ValueError unless positive."""
        return self._log_apply("log_matvec", self.left, self.right, log_v)

    def log_rmatvec(self, log_u: Tensor) -> Tensor:
        """log Σ_i K_ij exp(log_u_i): (*batch, n) -> (*batch, m). Raises ValueError unless positive."""
        return self._log_apply("log_rmatvec", self.right, self.left, log_u)

    def scaled(
        self, log_left: Tensor, log_right: Tensor, *, storage: torch.dtype | None = None, drop: float = 0.0
    ) -> LowRankOperator:
        """diag(exp log_left) K diag(exp log_right): (*batch, n), (*batch, m); entries may be −inf.

        Logarithmic factors overflow only where an entry of the product does. `storage`: see `KernelOperator`; factors
        with M between them keep their dtype, since M multiplies their rounding. There are no entries to `drop`.
        """
        storage = storage if self.middle is None else None
        if self.logarithmic:
            left, right = self.left + log_left[..., None], self.right + log_right[..., None]
        else:
            # The largest exponent changes sides: f/ε and g/ε are large, and opposite.
            top = log_left.amax(-1, keepdim=True).clamp(min=torch.finfo(self.dtype).min)
            left = self.left * (log_left - top).exp()[..., None]
            right = self.right * (log_right + top).exp()[..., None]
        before = self.log_scales or (0.0, 0.0)
        scales = before[0] + log_left, before[1] + log_right
        return attrs.evolve(self, left=left, right=right, log_scales=scales, storage=storage, own=None)

    def sums(self) -> tuple[Tensor, Tensor]:
        """Row and column sums: (*batch, n), (*batch, m), in the precision of `dtype`."""
        left, right = self.factors if self.storage in (None, self.dtype) else self._factors()
        middle = None if self.middle is None else self.middle.mT
        rows = left @ _through(self.middle, right.sum(-2)[..., None])
        return rows[..., 0], (right @ _through(middle, left.sum(-2)[..., None]))[..., 0]

    def log_rows(self, index: Tensor) -> Tensor:
        """log K of the rows `index`: (r,) -> (*batch, r, m). Raises ValueError unless positive."""
        self._need_log("log_rows")
        return log_product(self.left[..., index, :], self.right)

    def cost_inner(self, log_left: Tensor, log_right: Tensor) -> Tensor:
        """Σ_ij exp(l_i + r_j) K_ij C_ij with C = −ε log A Bᵀ: (*batch, n), (*batch, m) -> (*batch,)."""
        self._need_log("cost_inner")
        weighted = self.scaled(log_left, log_right)
        left, right = weighted.factors
        scales = weighted.log_scales
        assert scales is not None
        total = torch.zeros(self.batch_shape, dtype=self.dtype, device=self.device)
        step = max(1, CHUNK // (self.shape[1] * max(1, math.prod(self.batch_shape))))
        for start in range(0, self.shape[0], step):
            rows = slice(start, start + step)
            plan = left[..., rows, :] @ right.mT
            apart = plan > 0  # a pair without mass costs nothing, whatever its cost
            log_k = torch.where(apart, plan, 1.0).log() - scales[0][..., rows, None] - scales[1][..., None, :]
            total = total - torch.where(apart, plan * log_k, 0.0).sum((-1, -2))
        return total * self.epsilon

    def dense(self) -> Tensor:
        """K itself, (*batch, n, m)."""
        return self._entries(*self._factors())

    def entries(self, rows: Tensor | slice, columns: Tensor) -> Tensor:
        """K of some rows and columns, (r,), (c,) -> (*batch, r, c), in `storage`."""
        left, right = self.factors
        return self._entries(left[..., rows, :], right[..., columns, :])

    @torch.no_grad()
    def error_estimate(self, probes: int = 64, *, seed: int = 0) -> Estimate:
        """Relative l2 error against the exact kernel, |K̂ − K|_F / |K|_F, measured on `probes` exact rows.

        Rows are drawn with `seed`, those more often that look worse: a few points far from all others may carry most of
        the error, and equal odds would miss them. With n ≤ probes all rows are taken and the number is exact.
        """
        if self.shape[0] <= probes:
            return relative_error(*self._rows(torch.arange(self.shape[0], device=self.device)), None)
        generator = torch.Generator().manual_seed(seed)
        odds = self._odds(generator)
        index = torch.multinomial(odds.cpu(), probes, replacement=True, generator=generator).to(self.device)
        return relative_error(*self._rows(index), odds[index])

    def _rows(self, rows: Tensor | slice, columns: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """K̂ and K in float64, of some rows and all or some columns: (*batch, r, c)."""
        if columns is None:
            columns = torch.arange(self.shape[1], device=self.device)
        exact = self.exact.block(rows, columns)
        if self.log_scales is not None:
            scales = [scale.double() for scale in self.log_scales]
            exact = exact * (scales[0][..., rows, None] + scales[1][..., None, columns]).exp()
        return self.entries(rows, columns).double(), exact

    def _odds(self, generator: torch.Generator) -> Tensor:
        """How often a row is probed, (n,): equal odds, the error on some columns, and `own`, a third each."""
        n, m = self.shape
        columns = torch.randperm(m, generator=generator)[:PILOT_COLUMNS].to(self.device)
        got, exact = self._rows(slice(None), columns)
        signs = [torch.ones_like(got[..., 0]), (got - exact).square().sum(-1)]
        if self.own is not None:
            signs.append(torch.stack(list(self.own())).double().reshape(got.shape[:-1]))
        shares = [sign / sign.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny) for sign in signs]
        odds = torch.stack(shares).reshape(len(shares), -1, n).sum((0, 1))
        return odds / odds.sum()

    def _entries(self, left: Tensor, right: Tensor) -> Tensor:
        """Of K̂, from rows of either factor; M meets the side with fewer of them."""
        if self.middle is None:
            return left @ right.mT
        if left.shape[-2] <= right.shape[-2]:
            return (left.double() @ self.middle).to(left.dtype) @ right.mT
        return left @ _through(self.middle, right.mT)

    def _factors(self) -> tuple[Tensor, Tensor]:
        """A and B in the precision of `dtype`."""
        if not self.logarithmic:
            return self.left, self.right
        # With the largest entry of each column of A at 1, an entry of B is at most one of A Bᵀ.
        shift = self.left.detach().amax(-2, keepdim=True)
        shift = torch.where(shift.isfinite(), shift, 0.0)
        return (self.left - shift).exp(), (self.right + shift).exp()

    def _log_apply(self, method: str, left: Tensor, right: Tensor, log_v: Tensor) -> Tensor:
        self._need_log(method)
        check_real(log_v)
        if log_v.shape[-1] != right.shape[-2]:
            raise ValueError(f"a vector of length {right.shape[-2]} is needed, not {tuple(log_v.shape)}")
        inner = (right + log_v[..., None]).logsumexp(-2, keepdim=True)
        return (left + inner).logsumexp(-1)

    def _need_log(self, method: str) -> None:
        if not self.logarithmic:
            raise ValueError(
                f"{method}: entries of {self.name} may be negative and have no logarithm. Use `positive-rff`, or the "
                "kernel itself, which is exact"
            )


def _stacked(factors: Sequence[Tensor], rank: int) -> Tensor:
    """The factors of each problem, with columns of zeros: (b, n, r). A single one is not copied."""
    if len(factors) == 1:
        return factors[0][None]
    return torch.stack([torch.nn.functional.pad(factor, (0, rank - factor.shape[-1])) for factor in factors])


def _padded(middle: Tensor, rank: int) -> Tensor:
    more = rank - len(middle)
    return torch.nn.functional.pad(middle, (0, more, 0, more))


def _through(middle: Tensor | None, vectors: Tensor) -> Tensor:
    """M times vectors, (*batch, r, k): in float64, since entries of M are large and cancel, but in their dtype."""
    return vectors if middle is None else (middle @ vectors.double()).to(vectors.dtype)


def _apply(outer: Tensor, middle: Tensor | None, inner: Tensor, v: Tensor, batch_shape: tuple[int, ...]) -> Tensor:
    """outer M innerᵀ v, computed in the dtype of the factors and returned in that of v."""
    check_real(v)
    lead = len(batch_shape)
    if v.shape[lead : lead + 1] != inner.shape[-2:-1] or not lead < v.ndim <= lead + 2:
        wanted = (*batch_shape, inner.shape[-2])
        raise ValueError(f"a vector of shape {wanted}, or with one more dimension, is needed, not {tuple(v.shape)}")
    columns = (v if v.ndim == lead + 2 else v[..., None]).to(inner.dtype)
    out = (outer @ _through(middle, inner.mT @ columns)).to(v.dtype)
    return out if v.ndim == lead + 2 else out[..., 0]


def log_product(left: Tensor, right: Tensor) -> Tensor:
    """log Σ_k exp(left_ik + right_jk), computed in float64: (*batch, n, r), (*batch, m, r) -> (*batch, n, m).

    One matrix product, and the sum itself for the pairs that underflow in it.
    """
    dtype, left, right = left.dtype, left.double(), right.double()
    balance = 0.5 * (_top(left, -2) - _top(right, -2))
    left, right = left - balance, right + balance
    tops = _top(left, -1), _top(right, -1)
    product = (left - tops[0]).exp() @ (right - tops[1]).exp().mT
    lost = product < 1e-290
    out = torch.where(lost, 1.0, product).log() + tops[0] + tops[1].mT
    for pairs in torch.split(lost.nonzero(), max(1, CHUNK // left.shape[-1])):
        *batch, i, j = pairs.unbind(-1)
        out = out.index_put((*batch, i, j), (left[*batch, i] + right[*batch, j]).logsumexp(-1))
    return out.to(dtype)


def _top(logs: Tensor, dim: int) -> Tensor:
    """Largest entry, finite also where all are −inf."""
    return logs.detach().amax(dim, keepdim=True).clamp(min=torch.finfo(logs.dtype).min / 4)
