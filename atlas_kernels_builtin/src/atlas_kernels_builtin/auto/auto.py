"""A kernel that finds out by itself which operator to make."""

from __future__ import annotations

import time

import attrs
import torch
from torch import Tensor

from atlas_core import component
from atlas_core.contracts import Estimate, Kernel, KernelOperator
from atlas_kernels_builtin.approximate.at_landmarks import factors_at
from atlas_kernels_builtin.approximate.exact import exact_of
from atlas_kernels_builtin.approximate.low_rank import LowRankOperator
from atlas_kernels_builtin.approximate.nystroem import nystroem_operator
from atlas_kernels_builtin.approximate.positive_rff import PositiveRff
from atlas_kernels_builtin.approximate.rff import Rff
from atlas_kernels_builtin.auto.check import check
from atlas_kernels_builtin.auto.choices import (
    FIRST_RANK,
    Choice,
    Found,
    Task,
    exact_choices,
    search_features,
    search_nystroem,
)
from atlas_kernels_builtin.auto.probe import probe
from atlas_kernels_builtin.exact.dense import dense_operator
from atlas_kernels_builtin.exact.streaming import stream
from atlas_kernels_builtin.kernels.wrapping import SamePairs

ATTEMPTS = 3
"""Approximations that are built and found wanting before the exact operator is taken."""
SAFETY = 0.6
"""Of the tolerance, what a pilot aims at: what is built is measured on other rows, and has to meet all of it."""


@attrs.frozen
class Auto(SamePairs):
    """Make the operator that is fastest at the error that is allowed: exact, Nyström or random features.

    A few exact rows are computed; they time an exact product and measure the error of approximations. Ranks grow on a
    sample of the points until the tolerance is met or an exact operator is predicted to be faster, by constants that
    are measured on this machine once a process. What is built is measured again, on other rows, and not used unless
    its error is surely below the tolerance. The operator says what it is, and why: `choice`, `reason`, and its repr.

    Which one is taken depends on how fast the machine is at the time; that the tolerance is met does not, nor whether
    scaling solvers take it: they need `positive = true`.
    """

    kernel: Kernel = component(
        "kernel", default="atlas-kernels-builtin:gaussian", help="The kernel whose operator is made."
    )
    tolerance: float = attrs.field(
        default=1e-3,
        validator=[attrs.validators.gt(0), attrs.validators.lt(1)],
        metadata={"help": "Relative l2 error that a product may have, as `error_estimate` measures it."},
    )
    matvecs: int = attrs.field(
        default=10,
        validator=attrs.validators.ge(1),
        metadata={"help": "Products that the operator is expected to be used for: how much building may cost."},
    )
    positive: bool = attrs.field(
        default=False,
        metadata={"help": "Take none whose entries may be negative: solvers as sinkhorn need it, and set it to true."},
    )
    seed: int = attrs.field(default=0, metadata={"help": "Of the rows that are probed, and of approximations."})

    @property
    def has_log(self) -> bool:
        return self.positive and self.kernel.has_log

    def operator(self, x: Tensor, y: Tensor, *, epsilon: float | Tensor = 1.0) -> AutoOperator:
        """Return the operator of x (*batch, n, *item), y (*batch, m, *item). Raises ValueError for bad input."""
        start = time.perf_counter()
        exact = exact_of(self.kernel, x, y, epsilon)
        first = next(exact.problems())
        generator = torch.Generator().manual_seed(self.seed)
        epsilon_of_first = first[2].detach() if isinstance(first[2], Tensor) else first[2]
        seen = probe(self.kernel, first[0].detach(), first[1].detach(), epsilon_of_first, generator)
        task = Task(seen, len(exact.x), self.matvecs, self.tolerance, self.seed)
        best, *others = sorted(exact_choices(task), key=lambda choice: choice.seconds)
        reasons = [f"{other} {_time(other.seconds)}" for other in others]
        made, rejected = self._approximation(task, best, x, y, epsilon)
        if made is None:
            began = time.perf_counter()
            operator: KernelOperator = _exact(best, self.kernel, x, y, epsilon)
            choice, error, building = best, None, time.perf_counter() - began
        else:
            operator, choice, error, building = made
            reasons.insert(0, f"{best} {_time(best.seconds)}")
        return AutoOperator(
            inner=operator,
            choice=choice,
            error=error,
            reason=_sentence(self, choice, error, reasons + rejected),
            asked_positive=self.positive,
            seconds=time.perf_counter() - start,
            building_seconds=building,
        )

    def _approximation(
        self, task: Task, best: Choice, x: Tensor, y: Tensor, epsilon: float | Tensor
    ) -> tuple[tuple[LowRankOperator, Choice, Estimate, float] | None, list[str]]:
        """What is faster than the best exact choice, measured to be accurate; and why others are not taken."""
        rejected: list[str] = []
        aim = SAFETY * self.tolerance
        for attempt in range(ATTEMPTS):
            found = self._search(attrs.evolve(task, tolerance=aim), best.seconds)
            ready = [one for one in found if one.choice is not None and one.choice.seconds < best.seconds]
            rejected += [one.why for one in found if one not in ready[:1] and one.why not in rejected]
            if not ready:
                break
            choice = ready[0].choice
            assert choice is not None
            began = time.perf_counter()
            operator = self._build(ready[0], x, y, epsilon)
            building = time.perf_counter() - began
            generator = torch.Generator().manual_seed(self.seed + 1 + attempt)
            if task.problems > 1:
                error = operator.error_estimate(seed=self.seed + 1 + attempt)
            else:
                error, odds = check(operator, generator)
                task = attrs.evolve(task, odds=odds)
            if error.high <= self.tolerance:
                return (operator, choice, error, building), rejected
            rejected.append(f"{choice} was built and has an error of {error.value:.1e}")
            aim *= SAFETY
            task = attrs.evolve(task, first_rank=max(FIRST_RANK, int(1.3 * (choice.size or 0))))
        return None, rejected

    def _search(self, task: Task, limit: float) -> list[Found]:
        """All that was looked for, the fastest first."""
        if self.positive:
            found = [search_features(task, limit, positive=True)]
        else:
            found = [search_nystroem(task, limit)]
            nystroem = found[0].choice
            found.append(search_features(task, limit if nystroem is None else nystroem.seconds, positive=False))
        return sorted(found, key=lambda one: float("inf") if one.choice is None else one.choice.seconds)

    def _build(self, found: Found, x: Tensor, y: Tensor, epsilon: float | Tensor) -> LowRankOperator:
        assert found.choice is not None
        size = found.choice.size
        assert size is not None
        if found.landmarks is None:
            features = (PositiveRff if self.positive else Rff)(kernel=self.kernel, features=size, seed=self.seed)
            return features.operator(x, y, epsilon=epsilon)
        exact = exact_of(self.kernel, x, y, epsilon)
        factors = [
            factors_at(self.kernel, found.landmarks, *problem, rounding=found.rounding) for problem in exact.problems()
        ]
        return nystroem_operator(exact, factors)


def _exact(choice: Choice, kernel: Kernel, x: Tensor, y: Tensor, epsilon: float | Tensor) -> KernelOperator:
    if choice.name == "streaming":
        return stream(kernel, x, y, epsilon=epsilon)
    return dense_operator(kernel, x, y, epsilon=epsilon, reason="auto predicts that it is fastest")


def _sentence(auto: Auto, choice: Choice, error: Estimate | None, others: list[str]) -> str:
    means = "exact" if error is None else f"error {error.value:.1e}, at most {error.high:.1e}"
    parts = [f"{choice} ({means}, tolerance {auto.tolerance:.0e}) {_time(choice.seconds)} for {auto.matvecs} products"]
    return "; ".join([*parts, *others])


def _time(seconds: float) -> str:
    return f"takes about {seconds:.2g} s"


@attrs.frozen(eq=False)
class AutoOperator:
    """The operator that `auto` took, under its own name; every method is that operator's."""

    inner: KernelOperator
    choice: Choice
    """What it is, with its predicted seconds."""
    error: Estimate | None
    """Measured on what was built; None for exact ones."""
    reason: str
    """Why, with the numbers that decided."""
    asked_positive: bool
    seconds: float
    """Spent on choosing and building."""
    building_seconds: float
    """Of them, those of building what was taken."""

    def __repr__(self) -> str:
        return f"AutoOperator({self.reason})"

    @property
    def shape(self) -> tuple[int, int]:
        return self.inner.shape

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.inner.batch_shape

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    @property
    def device(self) -> torch.device:
        return self.inner.device

    @property
    def epsilon(self) -> float | Tensor:
        return self.inner.epsilon

    @property
    def positive(self) -> bool:
        """Whether that was asked for: what a solver takes must not depend on how fast the machine was."""
        return self.asked_positive and self.inner.positive

    @property
    def absorbs(self) -> bool:
        return self.inner.absorbs

    @property
    def wide_scalings(self) -> bool:
        """As of the operator that was taken."""
        return getattr(self.inner, "wide_scalings", False)

    def matvec(self, v: Tensor) -> Tensor:
        """K @ v: (*batch, m) or (*batch, m, k) -> (*batch, n) or (*batch, n, k)."""
        return self.inner.matvec(v)

    def rmatvec(self, u: Tensor) -> Tensor:
        """Kᵀ @ u: (*batch, n) or (*batch, n, k) -> (*batch, m) or (*batch, m, k)."""
        return self.inner.rmatvec(u)

    def log_matvec(self, log_v: Tensor) -> Tensor:
        """log Σ_j K_ij exp(log_v_j): (*batch, m) -> (*batch, n)."""
        return self.inner.log_matvec(log_v)

    def log_rmatvec(self, log_u: Tensor) -> Tensor:
        """log Σ_i K_ij exp(log_u_i): (*batch, n) -> (*batch, m)."""
        return self.inner.log_rmatvec(log_u)

    def scaled(
        self, log_left: Tensor, log_right: Tensor, *, storage: torch.dtype | None = None, drop: float = 0.0
    ) -> KernelOperator:
        """diag(exp log_left) K diag(exp log_right): (*batch, n), (*batch, m)."""
        return self.inner.scaled(log_left, log_right, storage=storage, drop=drop)

    def sums(self) -> tuple[Tensor, Tensor]:
        """Row and column sums: (*batch, n), (*batch, m)."""
        return self.inner.sums()

    def log_rows(self, index: Tensor) -> Tensor:
        """log K of the rows `index`: (r,) -> (*batch, r, m)."""
        return self.inner.log_rows(index)

    def cost_inner(self, log_left: Tensor, log_right: Tensor) -> Tensor:
        """Σ_ij exp(l_i + r_j) K_ij C_ij: (*batch, n), (*batch, m) -> (*batch,)."""
        return self.inner.cost_inner(log_left, log_right)

    def dense(self) -> Tensor:
        """K itself, (*batch, n, m)."""
        return self.inner.dense()

    def error_estimate(self, probes: int = 64, *, seed: int = 0) -> Estimate:
        """Relative l2 error of `matvec`, measured on exact rows."""
        return self.inner.error_estimate(probes, seed=seed)
