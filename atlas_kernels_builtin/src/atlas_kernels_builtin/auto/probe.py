"""Some rows of K, known exactly: how long exact rows take, and the error of an approximation on a few of them."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Estimate, Kernel
from atlas_kernels_builtin.approximate.exact import relative_error
from atlas_kernels_builtin.auto.time_model import call_seconds, seconds
from atlas_kernels_builtin.exact.streaming import stream

PAIRS = 2**19
"""Pairs that a timing takes at least, where there are that many: fewer measure the overhead of the calls."""
MOST_ROWS = 256
SAMPLED_COLUMNS = 768
LARGE_COLUMNS = 256


@attrs.frozen(eq=False)
class Probe:
    """Rows of one problem's K, x (n, *item) and y (m, *item), on a sample of its columns with weights.

    Sums over columns of K² or of squared errors are estimated without bias: the columns where a row is largest are all
    there, with weight 1, and stand for themselves alone; the others are a uniform sample.
    """

    kernel: Kernel
    x: Tensor
    y: Tensor
    epsilon: float | Tensor
    rows: Tensor
    """Indices, (p,)."""
    columns: Tensor
    """Indices, (c,)."""
    roots: Tensor
    """Square roots of the weights of the columns, (c,)."""
    entries: Tensor
    """K there, (p, c), float64."""
    setup_seconds: float
    """Of finding out what an exact operator wants to know about all the points."""
    pass_seconds: float
    """Of one product with all of K, streamed."""

    @property
    def typical(self) -> float:
        """Root mean square of K, in units of the largest entry seen."""
        largest = float(self.entries.abs().max())
        return math.sqrt(float((self.entries * self.roots).square().sum(1).mean()) / len(self.y)) / max(largest, 1e-300)

    def error(self, left: Tensor, right: Tensor) -> Estimate:
        """Relative l2 error of A Bᵀ, from A at the rows (p, r) and B at the columns (c, r)."""
        return self.error_of(left.double() @ right.double().mT)

    def error_of(self, entries: Tensor) -> Estimate:
        """The same, from the approximate entries (p, c)."""
        equal_odds = None if len(self.rows) == len(self.x) else torch.ones_like(self.entries[:, 0])
        sampled = self.roots > 1
        return relative_error(
            entries * self.roots,
            self.entries * self.roots,
            equal_odds,
            sampled_columns=sampled if bool(sampled.any()) else None,
        )


@torch.no_grad()
def probe(kernel: Kernel, x: Tensor, y: Tensor, epsilon: float | Tensor, generator: torch.Generator) -> Probe:
    """Compute a few rows of the exact operator, by the clock."""
    n, m = len(x), len(y)
    count = max(1, min(n // 8 + 1, max(32, PAIRS // m), MOST_ROWS))
    rows = torch.randperm(n, generator=generator)[:count].to(x.device)
    timed = stream(kernel, x[rows], y, epsilon=epsilon)
    ones = torch.ones(m, dtype=x.dtype, device=x.device)
    first, again = (seconds(lambda: timed.matvec(ones), x.device, repeats=1) for _ in range(2))
    call = min(call_seconds(x.device), 0.75 * again)  # costs the same whatever the number of rows
    exact = timed.dense()
    columns, roots = _columns(exact, generator)
    return Probe(
        kernel=kernel,
        x=x,
        y=y,
        epsilon=epsilon,
        rows=rows,
        columns=columns,
        roots=roots,
        entries=exact[:, columns].double(),
        setup_seconds=max(first - again, 0.0) * (n + m) / (count + m),
        pass_seconds=call + (again - call) * n / count,
    )


def _columns(exact: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Where the rows are largest, and a uniform sample of the rest: indices (c,), roots of the weights (c,)."""
    m = exact.shape[1]
    if m <= SAMPLED_COLUMNS + LARGE_COLUMNS:
        return torch.arange(m, device=exact.device), torch.ones(m, dtype=torch.float64, device=exact.device)
    each = max(1, LARGE_COLUMNS // len(exact))
    large = exact.abs().topk(each, dim=1).indices.flatten().unique()  # type: ignore[no-untyped-call]
    rest = torch.ones(m, dtype=torch.bool, device=exact.device)
    rest[large] = False
    others = rest.nonzero()[:, 0]
    picked = others[torch.randint(len(others), (SAMPLED_COLUMNS,), generator=generator).to(exact.device)]
    weight = (len(others) / SAMPLED_COLUMNS) ** 0.5
    roots = torch.ones(len(large) + SAMPLED_COLUMNS, dtype=torch.float64, device=exact.device)
    roots[len(large) :] = weight
    return torch.cat([large, picked]), roots
