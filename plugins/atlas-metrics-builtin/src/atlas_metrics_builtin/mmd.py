"""The metric `mmd`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import torch
from torch import Tensor

from atlas_core import build, component
from atlas_core.contracts import Kernel, MetricResult
from atlas_metrics_builtin.features import FeatureSets
from atlas_metrics_builtin.rows import at_most

BLOCK = 2**22
"""Pairs whose kernel is in memory at once."""
DEFAULT_KERNEL = "atlas-kernels-builtin:gaussian"


@attrs.define
class MMD(FeatureSets):
    """Tell two sets apart by how much more alike their points are within each than across; lower is better, 0 is equal.

    MMD² = E k(x, x') + E k(y, y') − 2 E k(x, y) without the pairs of a point with itself: unbiased at any two sample
    sizes, so that equal laws give 0 on average, and as often less. `standard_error` in the details is that of the
    value, by both terms of Hoeffding's decomposition of this U-statistic; where the laws are equal it is some 20 %
    too large.

    Every contender meets one kernel: where it is unset, a Gaussian whose bandwidth h is the median distance within the
    real set (k = exp(−|x − y|² / (2h²))); one with settings that depend on the data gets them from the real set. Its
    values are taken exactly, also where it offers an approximate operator.
    """

    better = "lower"
    paper = "Gretton et al. 2012, eq. 3 and sec. 8; Sutherland & Deka 2019 (its variance)"

    kernel: Kernel | None = component(
        "kernel", default=None, help="What compares two points; unset: `gaussian`, the median distance its bandwidth."
    )
    size: int = attrs.field(
        default=2000,
        validator=attrs.validators.ge(4),
        metadata={"help": "Most samples of either set that are compared."},
    )

    @torch.no_grad()
    def compute(self) -> MetricResult:
        """Raises ValueError with fewer than 4 samples on either side, or for a kernel of images or without value."""
        x, y = (at_most(rows, self.size, self.seed).double() for rows in self.both(at_least=4))
        kernel, details = self._fitted(y)
        value, error = mmd_squared(kernel, x, y)
        if value != value:
            raise ValueError(f"the kernel {type(kernel).__name__} is not finite on these samples")
        return MetricResult(
            value, len(x), self.features, details={"standard_error": error, "n_real": len(y), **details}
        )

    def _fitted(self, real: Tensor) -> tuple[Kernel, dict[str, float]]:
        """Return the kernel with all its numbers, and those that were found."""
        if self.kernel is not None:
            if self.kernel.item_ndim != 1:
                raise ValueError(
                    f"mmd compares rows of features, and {type(self.kernel).__name__} items of {self.kernel.item_ndim} "
                    "dimensions: use a kernel of points"
                )
            fitted = getattr(self.kernel, "fitted", None)
            return self.kernel if fitted is None else fitted(real, real), {}
        bandwidth = median_distance(real)
        kernel: Kernel = build("kernel", DEFAULT_KERNEL, bandwidth=bandwidth)
        return kernel, {"bandwidth": bandwidth}


def median_distance(x: Tensor) -> float:
    """Median of |x_i − x_j| over i < j of x (n, d), n ≥ 2; 1 where more than half of the points coincide."""
    # An expanded square would make the distance of equal points anything but 0.
    distances = torch.nn.functional.pdist(x)
    return float(distances.median()) or 1.0


@attrs.frozen
class _Sums:
    """Of a kernel matrix (n, m), or of its entries off the diagonal."""

    rows: Tensor
    """(n,): mean of each row."""
    columns: Tensor
    """(m,): mean of each column."""
    variance: float
    """Of all entries."""

    @property
    def mean(self) -> float:
        return float(self.rows.mean())


def mmd_squared(kernel: Kernel, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return the unbiased MMD² of x (n, d) and y (m, d), and its standard error; n, m ≥ 4.

    With Hoeffding's k(x, x') = θ + a(x) + a(x') + r(x, x'), and likewise b, s within y, and c(x), d(y), q across:

        Var = 4/n Var(a − c) + 4/m Var(b − d) + 2/(n(n−1)) E r² + 2/(m(m−1)) E s² + 4/(nm) E q².

    The variance over i of the row means estimates Var(a − c) + E r²/(n−1) + E q²/m.
    """
    n, m = len(x), len(y)
    xx, yy, xy = _sums(kernel, x), _sums(kernel, y), _sums(kernel, x, y)
    value = xx.mean + yy.mean - 2 * xy.mean
    r, s, q = _rest_within(xx), _rest_within(yy), _rest_across(xy)
    first = 4 / n * float((xx.rows - xy.rows).var()) + 4 / m * float((yy.rows - xy.columns).var())
    second = 2 * r / (n * (n - 1)) + 2 * s / (m * (m - 1)) + 4 * q / (n * m)
    # Unbiased as a difference, which chance can bring below the part that is always there.
    variance = max(first - second, second)
    return value, variance**0.5


def _rest_within(k: _Sums) -> float:
    """E r², from Var k = 2 Var a + E r² and Var of row means = ((n−2)/(n−1))² Var a + (n−2)/(n−1)² E r²."""
    n = len(k.rows)
    share = (n - 2) / (n - 1)
    rest = (k.variance - 2 * float(k.rows.var()) / share**2) / (1 - 2 / (n - 2)) if n > 4 else k.variance
    return max(rest, 0.0)


def _rest_across(k: _Sums) -> float:
    """E q², from Var k = Var c + Var d + E q², and E q²/m and E q²/n in the variances of row and column means."""
    n, m = len(k.rows), len(k.columns)
    rest = (k.variance - float(k.rows.var()) - float(k.columns.var())) / (1 - 1 / n - 1 / m)
    return max(rest, 0.0)


def _sums(kernel: Kernel, x: Tensor, y: Tensor | None = None) -> _Sums:
    """Sum up k(x, y), or k(x, x) without its diagonal, block by block."""
    other = x if y is None else y
    means, count = [], len(other) - (y is None)
    columns, squares = torch.zeros(len(other), dtype=x.dtype), 0.0
    for start, block in _blocks(kernel, x, other):
        if y is None:
            block.diagonal(start).zero_()
        means.append(block.sum(1) / count)
        columns += block.sum(0)
        squares += float(block.square().sum())
    rows = torch.cat(means)
    variance = max(squares / (len(x) * count) - float(rows.mean()) ** 2, 0.0)
    return _Sums(rows, columns / (len(x) - (y is None)), variance)


def _blocks(kernel: Any, x: Tensor, y: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row and k(rows, y) (r, m), in memory of its own."""
    # Exact, whatever approximation the kernel offers as an operator: an estimate needs no error beside its own.
    step = max(1, BLOCK // len(y))
    for start in range(0, len(x), step):
        part = x[start : start + step]
        yield start, kernel.block(part, y).clone() if hasattr(kernel, "block") else kernel.log_kernel(part, y).exp()
