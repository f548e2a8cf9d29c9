"""A kernel that keeps the operators it has made."""

from __future__ import annotations

import copy
from typing import Self

import attrs
from torch import Tensor

from atlas_core import component
from atlas_core.contracts import Kernel, KernelOperator
from atlas_kernels_builtin.keeping.cache import OperatorCache
from atlas_kernels_builtin.kernels.parts import fit
from atlas_kernels_builtin.kernels.wrapping import SamePairs
from atlas_kernels_builtin.operators import operator_of


@attrs.frozen
class Cached(SamePairs):
    """Keep the operators of another kernel: asked for the same points again, it does not build one again.

    Worth it where building is the work: `dense`, `nystroem`, `auto`. The operators used last stay, within a budget of
    bytes. The points are compared by content, so that a change in place is seen. What the cache did is in
    `cache.stats()`; a pickle of the kernel has a new one.
    """

    kernel: Kernel = component(
        "kernel", default="atlas-kernels-builtin:gaussian", help="The kernel whose operators are kept."
    )
    budget_mb: float = attrs.field(
        default=1024.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "Megabytes (10⁶ bytes) that the kept operators may hold, with their copies of the points."},
    )
    cache: OperatorCache = attrs.field(init=False, eq=False, repr=False)

    @cache.default
    def _new_cache(self) -> OperatorCache:
        return OperatorCache(int(self.budget_mb * 1e6))

    def fitted(self, x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Self:
        """Return the kernel with the settings that depend on the points replaced by numbers; the cache is shared."""
        new = copy.copy(self)
        object.__setattr__(new, "kernel", fit(self.kernel, x, y, a, b))  # evolve would give it a cache of its own
        return new

    def operator(self, x: Tensor, y: Tensor, *, epsilon: float | Tensor = 1.0) -> KernelOperator:
        """Return the kept operator of these points, or make and keep it."""
        return self.cache.operator(self.kernel, x, y, epsilon, _make)


def _make(kernel: Kernel, x: Tensor, y: Tensor, epsilon: float | Tensor) -> KernelOperator:
    return operator_of(kernel, x, y, epsilon=epsilon)
