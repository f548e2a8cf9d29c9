"""How many landmarks a Nyström approximation needs: measured on a sample, before anything large is made."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Estimate
from atlas_kernels_builtin.approximate import landmarks as pick
from atlas_kernels_builtin.approximate.nystroem import diagonal_of
from atlas_kernels_builtin.auto.probe import Probe
from atlas_kernels_builtin.exact.streaming import stream

STEP = 1.05
"""How finely the rank is chosen."""


STORED = 1536
"""Points of a sample up to which all of its kernel is computed at once: cheaper than to ask for each part of it."""


def pool_size(rank: int) -> int:
    """Points that the landmarks of a pilot are picked from."""
    return min(10 * rank, rank + rank // 2 + 1024)


@attrs.frozen(eq=False)
class Pilot:
    """Landmarks in the order in which they were picked, and what they say of the probe's rows and columns."""

    probe: Probe
    landmarks: Tensor
    """(r, *item)."""
    rows: Tensor
    """(p, r): of the probe's rows, in coordinates in which K(z, z) is the identity."""
    columns: Tensor
    """(c, r)."""

    def error(self, rank: int) -> Estimate:
        """Of the first `rank` landmarks."""
        return self.probe.error(self.rows[:, :rank], self.columns[:, :rank])

    def smallest(self, tolerance: float) -> tuple[int, Estimate]:
        """The least rank whose error is surely below; all of them are known to do."""
        low, high = 1, len(self.landmarks)
        error = self.error(high)
        while high > STEP * low + 1:
            middle = max(low + 1, math.isqrt(low * high))
            found = self.error(middle)
            if found.high <= tolerance:
                high, error = middle, found
            else:
                low = middle
        return high, error


@torch.no_grad()
def run_pilot(probe: Probe, rank: int, generator: torch.Generator, odds: Tensor | None = None) -> Pilot | str:
    """Pick `rank` landmarks from a sample that does not contain the probe's own points; a reason if it cannot be.

    With `odds` (n + m,), half of the sample is drawn by them.
    """

    pool = _pool(probe, pool_size(rank), generator, odds).double()
    sampled = torch.cat([probe.x[probe.rows], probe.y[probe.columns]]).double()

    def gram(p: Tensor, q: Tensor) -> Tensor:
        return stream(probe.kernel, p, q, epsilon=probe.epsilon).dense()

    try:
        points, look_up = pool, gram
        if len(pool) <= STORED:
            stored = gram(pool, pool)
            points = torch.arange(len(pool), device=pool.device)

            def look_up(p: Tensor, q: Tensor) -> Tensor:
                return stored[p][:, q] if len(p) < len(q) else stored[:, q][p]

        picked = pick.rp_cholesky(
            points,
            rank,
            generator,
            gram=look_up,
            diagonal=diagonal_of(probe.kernel, pool, probe.epsilon),
            tolerance=0.1 * torch.finfo(probe.x.dtype).eps,
        )
        landmarks = pool[picked]
        both = gram(landmarks, torch.cat([landmarks, sampled]))
        core = both[:, : len(landmarks)]
        shift = torch.finfo(torch.float64).eps * len(core) * core.diagonal().mean()
        root = torch.linalg.cholesky(core + shift * torch.eye(len(core), dtype=core.dtype, device=core.device))
    except (ValueError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        return f"nystroem cannot be used: {error}"
    features = torch.linalg.solve_triangular(root, both[:, len(landmarks) :], upper=False).mT
    rows, columns = features.split([len(probe.rows), len(probe.columns)])
    return Pilot(probe, landmarks.to(probe.x.dtype), rows, columns)


def _pool(probe: Probe, size: int, generator: torch.Generator, odds: Tensor | None) -> Tensor:
    n, m = len(probe.x), len(probe.y)
    drawn = torch.randint(n + m, (2 * size,), generator=generator)
    if odds is not None:
        drawn[::2] = torch.multinomial(odds.cpu(), size, replacement=True, generator=generator)
    drawn = drawn.unique()  # type: ignore[no-untyped-call]
    drawn = drawn[torch.randperm(len(drawn), generator=generator)]
    # Where y is x, a landmark at a probed row would make that row exact.
    taken = torch.isin(drawn % n, probe.rows.cpu()) if n == m else torch.isin(drawn, probe.rows.cpu())
    drawn = drawn[~taken][:size].to(probe.x.device)
    first = drawn < n
    return torch.cat([probe.x[drawn[first]], probe.y[drawn[~first] - n]])
