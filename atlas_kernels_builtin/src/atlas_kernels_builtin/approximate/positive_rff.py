"""Positive random features: an approximation that scaling solvers can use, since no entry is ever negative."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from atlas_core import component
from atlas_core.contracts import Kernel
from atlas_kernels_builtin.approximate.exact import exact_of
from atlas_kernels_builtin.approximate.features import Frequencies, centred, check_kernel, check_number, height
from atlas_kernels_builtin.approximate.low_rank import LowRankOperator
from atlas_kernels_builtin.kernels.wrapping import Wrapping

PILOT = 16
"""Points of either side that the choice of the widths looks at."""
SWEEPS = 10


@attrs.frozen
class PositiveRff(Wrapping):
    """Approximate a kernel by positive random features: entropic transport in time and memory linear in n + m.

    Given a rate τ of the kernel's spectral law, exp(−τ |x − y|²) = E φ(x, ω) φ(y, ω) with ω ~ N(0, I), X = √(2τ) x and
    log φ(x, ω) = Σ_l [¼ log(1 − 4A_l) + A_l ω_l² + √(1 − 4A_l) ω_l X_l] − |X|² for any A_l < 1/8. A = 0 gives the
    features of Choromanski et al.; A < 0 draws from wider normals, as Scetbon & Cuturi do, and A is chosen for each
    coordinate to make the error on these points least. Unbiased and positive; the error grows exponentially with
    τ |x|², so as ε falls: ask `error_estimate` of the operator before you trust it.
    """

    has_log = True
    paper = "Scetbon & Cuturi 2020, lemma 1; Likhosherstov et al. 2022, thm. 3.2"

    kernel: Kernel = component(
        "kernel", default="atlas-kernels-builtin:gaussian", help="The kernel that is approximated."
    )
    features: int = attrs.field(
        default=1024, validator=attrs.validators.ge(1), metadata={"help": "Columns of the approximation."}
    )
    seed: int = attrs.field(default=0, metadata={"help": "Of the random features."})

    def __attrs_post_init__(self) -> None:
        check_kernel("positive-rff", self.kernel)

    def log_kernel(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the logarithm of the approximation for every pair: (n, d), (m, d) -> (n, m)."""
        operator = self.operator(x, y)
        return operator.log_rows(torch.arange(operator.shape[0], device=x.device))

    def operator(self, x: Tensor, y: Tensor, *, epsilon: float | Tensor = 1.0) -> LowRankOperator:
        """Return A Bᵀ for x (*batch, n, d), y (*batch, m, d). Raises ValueError where the spectral law is not known."""
        exact = exact_of(self.kernel, x, y, epsilon)
        factors = [self._log_features(*problem) for problem in exact.problems()]
        return LowRankOperator.of(
            exact,
            factors,
            logarithmic=True,
            name="positive-rff",
            own=lambda: [(2 * left.detach().double()).logsumexp(-1).exp() for left, _ in factors],
        )

    def _log_features(self, x: Tensor, y: Tensor, epsilon: float | Tensor) -> tuple[Tensor, Tensor]:
        """log φ of both sides: (n, features), (m, features)."""
        number, dim = check_number("positive-rff", epsilon), x.shape[-1]
        frequencies = Frequencies.draw(self.kernel, self.features, dim, epsilon=number, seed=self.seed).to(x)
        x, y = centred(x, y)
        squares = [_weighted_square(points, frequencies.rates) for points in (x, y)]
        sharpness = _sharpness(x.detach(), y.detach(), frequencies.rates.detach())
        spread = 1 - 4 * sharpness
        offset = 0.5 * (height(self.kernel, dim, number, x) - math.log(self.features))
        offset = offset + (0.25 * spread.log() + sharpness * frequencies.vectors.square()).sum(-1)
        vectors = frequencies.scaled * spread.sqrt()
        left, right = (points @ vectors.mT - square + offset for points, square in zip((x, y), squares, strict=True))
        return left, right


def _weighted_square(points: Tensor, rates: Tensor) -> Tensor:
    """|X|² = Σ_l 2 τ_l x_l²: (n, d), (k,) or (k, d) -> (n, k)."""
    square = points.square()
    return 2 * (square.sum(-1, keepdim=True) * rates if rates.ndim == 1 else square @ rates.mT)


def _sharpness(x: Tensor, y: Tensor, rates: Tensor) -> Tensor:
    """A of every feature and coordinate, (k, d): the one with the least Σ_ij E φ(x_i)² φ(y_j)² over a few pairs.

    With ρ_l = 1 / (1 − 8A_l), and Z = X + Y, the term of a pair is, but for a constant,
    exp(Σ_l [log(1 + ρ_l) − ½ log ρ_l + (1 + ρ_l) Z_l²] − 2 |X|² − 2 |Y|²). Its minimum for a known share of each pair
    in the sum is the root of 2 Z² ρ² + (1 + 2 Z²) ρ − 1 (thm. 3.2 with d = 1), and the shares follow.
    """
    x, y = (p[torch.linspace(0, len(p) - 1, min(PILOT, len(p)), device=p.device).long()].double() for p in (x, y))
    twice = 2 * (rates.double() if rates.ndim == 2 else rates.double()[:, None].expand(-1, x.shape[1]))
    together = (x[:, None] + y).flatten(0, 1).square()  # (pairs, d)
    own = 2 * (x.square()[:, None] + y.square()).flatten(0, 1)
    shares = torch.full((len(twice), len(together)), 1 / len(together), dtype=torch.float64, device=x.device)
    for _ in range(SWEEPS):
        sums = twice * (shares @ together)
        levels = 2 / (1 + 2 * sums + ((1 + 2 * sums).square() + 8 * sums).sqrt())
        exponents = (twice * (1 + levels)) @ together.mT - twice @ own.mT
        shares = 0.5 * (shares + exponents.softmax(-1))
    return (0.125 * (1 - 1 / levels)).to(rates)
