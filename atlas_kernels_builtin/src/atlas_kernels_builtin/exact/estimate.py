"""The error of an operator's products, measured on rows of K in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from atlas_core.contracts import Estimate, KernelOperator


def rounding_error(
    operator: KernelOperator, exact_rows: Callable[[Tensor], Tensor], probes: int, seed: int
) -> Estimate:
    """Relative l2 error of `operator.matvec` on a normal vector, on `probes` rows drawn with `seed`.

    `exact_rows` gives the rows of an index (r,) in float64, (*batch, r, m). The interval is the delta method's, and no
    end of it is below float64's own rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(operator.shape[0], (probes,), generator=generator).to(operator.device)
    v = torch.randn(*operator.batch_shape, operator.shape[1], generator=generator, dtype=torch.float64)
    v = v.to(operator.device)
    exact = (exact_rows(index) @ v[..., None])[..., 0]
    got = operator.matvec(v.to(operator.dtype))[..., index].double()
    errors, sizes = (got - exact).square().flatten(), exact.square().flatten()
    ratio, count = errors.sum() / sizes.sum(), errors.numel()
    spread = 1.96 * (count / max(count - 1, 1) * (errors - ratio * sizes).square().sum()).sqrt() / sizes.sum()
    floor = torch.finfo(torch.float64).eps  # the reference is no better than this
    low, value, high = (float((ratio + sign * spread).clamp(min=0).sqrt()) for sign in (-1, 0, 1))
    return Estimate(value=max(value, floor), low=low, high=max(high, floor))
