"""The Nyström approximation: the kernel of all points from that of a few landmarks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs
import torch
from torch import Tensor

from atlas_core import component
from atlas_core.contracts import Kernel
from atlas_kernels_builtin.approximate import landmarks as pick
from atlas_kernels_builtin.approximate.at_landmarks import Factors, factors_at
from atlas_kernels_builtin.approximate.exact import Exact, exact_of
from atlas_kernels_builtin.approximate.low_rank import LowRankOperator
from atlas_kernels_builtin.exact.streaming import stream
from atlas_kernels_builtin.kernels.parts import block_of
from atlas_kernels_builtin.kernels.wrapping import Wrapping


@attrs.frozen
class Nystroem(Wrapping):
    """Approximate a kernel from its values at landmarks: good wherever few of them say all, as for smooth kernels.

    K ≈ K(x, z) K(z, z)⁺ K(z, y) for landmarks z among the points; exact if all points are landmarks. Needs no spectral
    law, only a positive definite kernel, of points or images. Directions of K(z, z) whose eigenvalue is lost in the
    rounding of the dtype are left out, so that the rank is often smaller than the number of landmarks. Entries may be
    negative, so scaling solvers refuse it: they take `positive-rff`, or an exact kernel.
    """

    has_log = False
    paper = "Williams & Seeger 2001; Chen, Epperly, Tropp & Webber 2022"

    kernel: Kernel = component(
        "kernel", default="atlas-kernels-builtin:gaussian", help="The kernel that is approximated."
    )
    landmarks: int = attrs.field(
        default=512, validator=attrs.validators.ge(1), metadata={"help": "Landmarks at most: the rank."}
    )
    method: Literal["rp-cholesky", "k-means++", "uniform"] = attrs.field(
        default="rp-cholesky",
        validator=attrs.validators.in_(("rp-cholesky", "k-means++", "uniform")),
        metadata={"help": "How landmarks are picked: by what is left of the kernel, by distance, or with equal odds."},
    )
    accuracy: float = attrs.field(
        default=0.0,
        validator=[attrs.validators.ge(0), attrs.validators.lt(1)],
        metadata={
            "help": "Error of entries that rounding may cause, in units of k(x, x), where more than the dtype's own: "
            "from about 1e-5 on, float32 points are several times as fast. It adds to that of few landmarks."
        },
    )
    seed: int = attrs.field(default=0, metadata={"help": "Of the random choice of landmarks."})

    def block(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the approximation of every pair, with landmarks among x and y: (n, *item), (m, *item) -> (n, m)."""
        return self.operator(x, y).dense()

    def operator(self, x: Tensor, y: Tensor, *, epsilon: float | Tensor = 1.0) -> LowRankOperator:
        """Return A Bᵀ for x (*batch, n, *item), y (*batch, m, *item)."""
        exact = exact_of(self.kernel, x, y, epsilon)
        factors = [self._factors(*problem) for problem in exact.problems()]
        return nystroem_operator(exact, factors)

    def _factors(self, x: Tensor, y: Tensor, epsilon: float | Tensor) -> Factors:
        rounding = max(self.accuracy, torch.finfo(x.dtype).eps)
        points = torch.cat([x, y])
        landmarks = points[self._landmarks(points.detach().double(), epsilon, 0.1 * rounding)]
        return factors_at(self.kernel, landmarks, x, y, epsilon, rounding=rounding)

    @torch.no_grad()
    def _landmarks(self, points: Tensor, epsilon: float | Tensor, tolerance: float) -> Tensor:
        """Indices of the landmarks, (r,): fewer than asked for where `tolerance` of the trace is all that is left."""
        generator = torch.Generator().manual_seed(self.seed)
        count = min(self.landmarks, len(points))
        if count == len(points):
            return torch.arange(count, device=points.device)
        among = pick.candidates(len(points), count, generator)
        some = points[among.to(points.device)]
        if self.method == "uniform":
            picked = pick.uniform(some, count, generator)
        elif self.method == "k-means++":
            picked = pick.k_means_plus_plus(some, count, generator)
        else:
            diagonal = diagonal_of(self.kernel, some, epsilon)
            picked = pick.rp_cholesky(
                some,
                count,
                generator,
                gram=lambda p, q: stream(self.kernel, p, q, epsilon=float(epsilon)).dense(),
                diagonal=diagonal,
                tolerance=tolerance,
            )
        return among[picked].to(points.device)


def nystroem_operator(exact: Exact, factors: Sequence[Factors]) -> LowRankOperator:
    """The operator of the factors of each problem; its probes look first at rows whose own entry is far off."""

    problems = list(zip(exact.problems(), factors, strict=True))
    return LowRankOperator.of(
        exact,
        [(made.left, made.right) for made in factors],
        middles=[made.middle for made in factors],
        logarithmic=False,
        name="nystroem",
        own=lambda: [residual(exact.kernel, x, epsilon, made.left, made.middle) for (x, _, epsilon), made in problems],
    )


@torch.no_grad()
def residual(kernel: Kernel, x: Tensor, epsilon: float | Tensor, factor: Tensor, middle: Tensor | None) -> Tensor:
    """|k(x, x) − k̂(x, x)|, (n,) in float64, from the factor (n, r): a positive definite kernel's is largest there.

    With M between the factors, what the best of the landmarks leaves of it on its own, which is no less.
    """
    own = diagonal_of(kernel, x, epsilon)
    known = factor.square().sum(-1) if middle is None else factor.square().amax(-1) / own.mean()
    return (own - known).abs().double()


def diagonal_of(kernel: Kernel, points: Tensor, epsilon: float | Tensor) -> Tensor:
    """k(p, p)^(1/ε), (n,)."""
    return torch.vmap(lambda p: block_of(kernel, p[None], p[None])[0, 0])(points) ** (1 / float(epsilon))
