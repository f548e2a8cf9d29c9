"""The Nyström approximation: the kernel of all points from that of a few landmarks."""

from __future__ import annotations

from typing import Literal

import attrs
import torch
from torch import Tensor

from atlas_core import component
from atlas_core.contracts import Kernel
from atlas_kernels_builtin.approximate import landmarks as pick
from atlas_kernels_builtin.approximate.exact import exact_of
from atlas_kernels_builtin.approximate.low_rank import LowRankOperator
from atlas_kernels_builtin.exact.streaming import stream
from atlas_kernels_builtin.kernels.parts import block_of
from atlas_kernels_builtin.kernels.wrapping import Wrapping

CHUNK = 2**23
"""Entries of K(x, z) at a time, in float64."""


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
    seed: int = attrs.field(default=0, metadata={"help": "Of the random choice of landmarks."})

    def block(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the approximation of every pair, with landmarks among x and y: (n, *item), (m, *item) -> (n, m)."""
        return self.operator(x, y).dense()

    def operator(self, x: Tensor, y: Tensor, *, epsilon: float | Tensor = 1.0) -> LowRankOperator:
        """Return A Bᵀ for x (*batch, n, *item), y (*batch, m, *item)."""
        exact = exact_of(self.kernel, x, y, epsilon)
        factors = [self._factors(*problem) for problem in exact.problems()]
        own = [self._own_error(*problem, left) for problem, (left, _) in zip(exact.problems(), factors, strict=True)]
        return LowRankOperator.of(exact, factors, logarithmic=False, name="nystroem", own=own)

    def _factors(self, x: Tensor, y: Tensor, epsilon: float | Tensor) -> tuple[Tensor, Tensor]:
        """(n, r), (m, r)."""
        dtype, x, y = x.dtype, x.double(), y.double()  # rounding would be divided by the root of small eigenvalues
        points = torch.cat([x, y])
        landmarks = points[self._landmarks(points.detach(), epsilon, 0.1 * torch.finfo(dtype).eps)]

        def gram(p: Tensor, q: Tensor) -> Tensor:
            return stream(self.kernel, p, q, epsilon=epsilon).dense()

        core = gram(landmarks, landmarks)
        root, signs = _inverse_root(core.detach(), torch.finfo(dtype).eps)

        def factor(points: Tensor) -> Tensor:
            parts = points.split(max(1, CHUNK // len(core)))  # type: ignore[no-untyped-call]
            return torch.cat([(gram(part, landmarks) @ root).to(dtype) for part in parts])

        left, right = factor(x) * signs.to(dtype), factor(y)
        if core.requires_grad:
            # RᵀWR is S, so this changes nothing but the derivative, which becomes that of W⁺. The one of eigenvectors
            # would explode where two eigenvalues are close.
            left = 2 * left - left @ (root.mT @ core @ root * signs).to(dtype)
        return left, right

    @torch.no_grad()
    def _own_error(self, x: Tensor, y: Tensor, epsilon: float | Tensor, left: Tensor) -> Tensor:
        """|k(x, x) − k̂(x, x)|, (n,): the residual of a positive definite kernel is largest on its diagonal."""
        return (_diagonal(self.kernel, x) ** (1 / float(epsilon)) - left.square().sum(-1)).abs()

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
            diagonal = _diagonal(self.kernel, some) ** (1 / float(epsilon))
            picked = pick.rp_cholesky(
                some,
                count,
                generator,
                gram=lambda p, q: stream(self.kernel, p, q, epsilon=float(epsilon)).dense(),
                diagonal=diagonal,
                tolerance=tolerance,
            )
        return among[picked].to(points.device)


def _diagonal(kernel: Kernel, points: Tensor) -> Tensor:
    """k(p, p), (n,)."""
    return torch.vmap(lambda p: block_of(kernel, p[None], p[None])[0, 0])(points)


def _inverse_root(core: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
    """R (r, k) and signs S (k,) with R S Rᵀ = K(z, z)⁺ but for the k ≤ r directions that `rounding` hides.

    Without a direction of eigenvalue λ about λ / r is lost of an entry, in units of the diagonal: no less than
    `rounding` is worth a column. With it, the rounding u of float64 itself, in K(x, z), counts as u / √λ: that meets
    λ / r at λ = (u r)^(2/3), the least of all cuts. Signs are 1 for a positive definite kernel.
    """
    values, vectors = torch.linalg.eigh(core)
    size, unit = len(core), torch.finfo(core.dtype).eps
    cut = core.diagonal().abs().mean() * max((unit * size) ** (2 / 3), 0.1 * rounding * size)
    keep = values.abs() > cut
    return vectors[:, keep] * values[keep].abs().rsqrt(), values[keep].sign()
