"""What an approximation approximates: the kernel, the points and ε of each problem; and its error on exact rows."""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Estimate, Kernel
from atlas_kernels_builtin.exact.checks import check_epsilon, common_batch
from atlas_kernels_builtin.exact.streaming import stream

NORMAL_95 = 1.96


@attrs.frozen(eq=False)
class Exact:
    """The operator that an approximation stands for; made by `exact_of`, which checks everything."""

    kernel: Kernel
    x: Tensor
    """(b, n, d), the batch flattened."""
    y: Tensor
    """(b, m, d)."""
    batch_shape: tuple[int, ...]
    epsilon: float | Tensor
    """A number, or (*batch,)."""

    def problems(self) -> Iterator[tuple[Tensor, Tensor, float | Tensor]]:
        """Each problem of the batch: x (n, d), y (m, d), ε."""
        for index, (x, y) in enumerate(zip(self.x, self.y, strict=True)):
            yield x, y, self.epsilon.reshape(-1)[index] if isinstance(self.epsilon, Tensor) else self.epsilon

    def block(self, rows: Tensor | slice, columns: Tensor | slice) -> Tensor:
        """K itself in float64, of some rows and columns: (*batch, r, c)."""
        epsilon = self.epsilon.detach().double() if isinstance(self.epsilon, Tensor) else self.epsilon
        picked = (self.x[:, rows], self.y[:, columns])
        x, y = (points.detach().double().reshape(*self.batch_shape, *points.shape[1:]) for points in picked)
        return stream(self.kernel, x, y, epsilon=epsilon).dense()


def exact_of(kernel: Kernel, x: Tensor, y: Tensor, epsilon: float | Tensor) -> Exact:
    """Return what is approximated: x (*batch, n, d), y (*batch, m, d). Raises ValueError as `operator_of` does."""
    batch = common_batch(kernel, x, y)
    epsilon = check_epsilon(kernel, epsilon, batch, x)
    x, y = (points.expand(*batch, *points.shape[-1 - kernel.item_ndim :]) for points in (x, y))
    flat_x, flat_y = (points.reshape(-1, *points.shape[len(batch) :]) for points in (x, y))
    return Exact(kernel, flat_x, flat_y, batch, epsilon.reshape(batch) if isinstance(epsilon, Tensor) else epsilon)


def relative_error(
    got: Tensor, exact: Tensor, odds: Tensor | None, *, sampled_columns: Tensor | None = None
) -> Estimate:
    """Relative l2 error of K v over normal vectors v, √(E|K̂v − Kv|² / E|Kv|²) = |K̂ − K|_F / |K|_F, from some rows.

    `got` and `exact` hold the same rows of K̂ and K, (*batch, r, m) in float64, drawn with replacement with `odds` (r,);
    None: all rows are there, and the number is exact. Whole rows need no v, so none of its chance is in the number. The
    interval is the delta method's for the logarithm of the ratio, which is closer to normal than the ratio. Where only
    some columns are there, multiplied with the roots of their weights, `sampled_columns` (m,) says which of them are a
    sample: what another one would have changed is then in the interval, too.
    """
    share = 1.0 if odds is None else 1 / odds
    squares = [rows.square() for rows in (got - exact, exact)]
    errors, sizes = ((square.sum(-1) * share).flatten() for square in squares)
    if not float(sizes.sum()) > 0:
        value = 0.0 if float(errors.sum()) == 0 else math.inf
        return Estimate(value=value, low=value, high=value)
    ratio, variance = float(errors.sum() / sizes.sum()), 0.0
    if odds is not None:
        variance += _variance_of_sum(errors - ratio * sizes)
    if sampled_columns is not None:
        weights = torch.ones_like(got[..., 0]) if odds is None else (1 / odds).to(got).expand(got.shape[:-1])
        columns = [torch.einsum("...r,...rc->c", weights, square)[sampled_columns] for square in squares]
        variance += _variance_of_sum(columns[0] - ratio * columns[1])
    spread = variance**0.5 / float(errors.sum()) if ratio > 0 else 0.0
    value = max(ratio**0.5, torch.finfo(torch.float64).eps)  # the reference is no better than this
    width = math.exp(0.5 * NORMAL_95 * spread)
    return Estimate(value=value, low=value / width, high=value * width)


def _variance_of_sum(draws: Tensor) -> float:
    """Of the sum of so many independent draws of one law, from the draws themselves."""
    count = draws.numel()
    return float((draws - draws.mean()).square().sum()) * count / max(count - 1, 1) if count else 0.0
