"""The operator of any kernel: its own, or the exact one that every kernel gets."""

from __future__ import annotations

from torch import Tensor

from atlas_core.contracts import Kernel, KernelOperator
from atlas_kernels_builtin.exact.exact_operator import exact_operator
from atlas_kernels_builtin.keeping.cache import active_cache
from atlas_kernels_builtin.kernels.parts import fit


def operator_of(kernel: Kernel, x: Tensor, y: Tensor, *, epsilon: float | Tensor = 1.0) -> KernelOperator:
    """Return the linear operator K_ij = k(x_i, y_j)^(1/ε) of x (*batch, n, *item) and y (*batch, m, *item).

    The kernel's own `operator` if it has one, else `exact_operator`: stored where memory allows, streamed where not.
    Inside an `operator_cache` block, one that is kept. `epsilon` is a number or one a problem, (*batch,). Raises
    ValueError for points that do not fit together, and for a signed kernel with ε ≠ 1.
    """
    cache = active_cache()
    return _make(kernel, x, y, epsilon) if cache is None else cache.operator(kernel, x, y, epsilon, _make)


def _make(kernel: Kernel, x: Tensor, y: Tensor, epsilon: float | Tensor) -> KernelOperator:
    kernel = fit(kernel, x, y)
    own = getattr(kernel, "operator", None)
    if own is not None:
        made: KernelOperator = own(x, y, epsilon=epsilon)
        return made
    return exact_operator(kernel, x, y, epsilon=epsilon)
