"""What kernels have in common that hold another one."""

from __future__ import annotations

from typing import Self

import attrs
from torch import Tensor

from atlas_core import component
from atlas_core.contracts import Kernel
from atlas_kernels_builtin.kernels.parts import block_of, fit


@attrs.frozen
class Wrapping:
    """Another kernel, whose items are this one's; what is said of pairs is left to the class."""

    kernel: Kernel = component("kernel", default="atlas-kernels-builtin:gaussian", help="The kernel that is wrapped.")

    @property
    def has_log(self) -> bool:
        return self.kernel.has_log

    @property
    def item_ndim(self) -> int:
        return self.kernel.item_ndim

    def fitted(self, x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Self:
        """Return the same of the fitted kernel (see `Kernel`)."""
        return attrs.evolve(self, kernel=fit(self.kernel, x, y, a, b))


@attrs.frozen
class SamePairs(Wrapping):
    """Another kernel, whose values are this one's: only the operator is made in another way."""

    def log_kernel(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log k of every pair, exactly: (n, *item), (m, *item) -> (n, m)."""
        return self.kernel.log_kernel(x, y)

    def block(self, x: Tensor, y: Tensor) -> Tensor:
        """Return k of every pair, exactly: (n, *item), (m, *item) -> (n, m)."""
        return block_of(self.kernel, x, y)
