"""Operators kept for the next time that the same points and kernel are asked for, within a budget of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Kernel, KernelOperator
from atlas_kernels_builtin.keeping.content import content_key, held_bytes

Make = Callable[[Kernel, Tensor, Tensor, float | Tensor], KernelOperator]

_ACTIVE: ContextVar[OperatorCache | None] = ContextVar("atlas_operator_cache", default=None)


@attrs.frozen
class CacheStats:
    """What a cache has done so far, and what it holds."""

    hits: int
    misses: int
    evictions: int
    """Operators that had to go for others, or outgrew the budget."""
    too_large: int
    """Operators that were made and handed out, and are larger than the whole budget."""
    bypassed: int
    """Requests that cannot be compared by content: points that require gradients, kernels that are no attrs class."""
    entries: int
    bytes: int
    budget_bytes: int


class OperatorCache:
    """Keep the operators used last, at most `budget_bytes` of them, measured as the tensors that they hold.

    An operator is found again by content: kernel and settings, points and ε, to the last bit (see `content_key`). So a
    change in place of the points is a miss, and a copy of the same points a hit. It is made of copies, which the
    caller's later changes do not reach, and which count; the caller's own tensors are not kept alive. Requests
    that need a graph are not cached. Threads may share a cache; two that miss the same key at once both make it.
    """

    def __init__(self, budget_bytes: int) -> None:
        if not budget_bytes > 0:
            raise ValueError(f"budget_bytes must be positive, not {budget_bytes}: to cache nothing, use no cache")
        self.budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, KernelOperator] = OrderedDict()
        self._counts = dict.fromkeys(("hits", "misses", "evictions", "too_large", "bypassed"), 0)

    def __reduce__(self) -> tuple[type[OperatorCache], tuple[int]]:
        return OperatorCache, (self.budget_bytes,)  # a copy or a pickle starts empty

    def operator(self, kernel: Kernel, x: Tensor, y: Tensor, epsilon: float | Tensor, make: Make) -> KernelOperator:
        """Return what `make(kernel, x, y, epsilon)` returns: a kept operator, or a new one that is then kept."""
        key = content_key(kernel, x, y, epsilon, x is y)
        if key is None:
            self._count("bypassed")
            return make(kernel, x, y, epsilon)
        with self._lock:
            found = self._entries.get(key)
            self._counts["misses" if found is None else "hits"] += 1
            if found is not None:
                self._entries.move_to_end(key)
                self._trim()  # it may have grown since: some operators store their entries at the first product
                return found
        made = _make_of_copies(make, kernel, x, y, epsilon)
        with self._lock:
            if held_bytes(made) > self.budget_bytes:
                self._counts["too_large"] += 1
                return made
            kept = self._entries.setdefault(key, made)
            self._entries.move_to_end(key)
            self._trim()
            return kept

    def stats(self) -> CacheStats:
        """Return the counts, and what is held now."""
        with self._lock:
            held = sum(held_bytes(operator) for operator in self._entries.values())
            return CacheStats(**self._counts, entries=len(self._entries), bytes=held, budget_bytes=self.budget_bytes)

    def clear(self) -> None:
        """Let go of every operator; the counts stay."""
        with self._lock:
            self._entries.clear()

    @contextmanager
    def active(self) -> Iterator[OperatorCache]:
        """Let `operator_of` ask this cache, in this thread or task, until the block ends."""
        token = _ACTIVE.set(self)
        try:
            yield self
        finally:
            _ACTIVE.reset(token)

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def _trim(self) -> None:
        sizes = {key: held_bytes(operator) for key, operator in self._entries.items()}
        total = sum(sizes.values())
        while total > self.budget_bytes:
            key, _ = self._entries.popitem(last=False)
            total -= sizes[key]
            self._counts["evictions"] += 1


@contextmanager
def operator_cache(budget_bytes: int) -> Iterator[OperatorCache]:
    """Cache what `operator_of` makes inside the block, hence what solvers and metrics ask for: a `with` statement.

        with operator_cache(2**30) as cache:
            for other in others:
                divergence(x, other)  # the operator of x with itself is made once
        print(cache.stats())

    Other threads do not see it; there, `with cache.active():`. Raises ValueError for a budget that is not positive.
    """
    with OperatorCache(budget_bytes).active() as cache:
        yield cache


def active_cache() -> OperatorCache | None:
    """Return the cache of the innermost `operator_cache` block around the caller."""
    return _ACTIVE.get()


def _make_of_copies(make: Make, kernel: Kernel, x: Tensor, y: Tensor, epsilon: float | Tensor) -> KernelOperator:
    # Parts of an operator are not cached on their own: they would count twice, and outlive it.
    token = _ACTIVE.set(None)
    try:
        # An operator made of inference tensors could not be used under gradients later.
        with torch.inference_mode(False):
            copy = x.clone()
            epsilon = epsilon.clone() if isinstance(epsilon, Tensor) else epsilon
            return make(kernel, copy, copy if x is y else y.clone(), epsilon)
    finally:
        _ACTIVE.reset(token)
