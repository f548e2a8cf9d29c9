"""The factors of a Nyström approximation whose landmarks are chosen already."""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_core.contracts import Kernel
from atlas_kernels_builtin.exact.streaming import stream

CHUNK = 2**24
"""Entries of a block of the kernel that is multiplied at a time."""


def factors_at(
    kernel: Kernel, landmarks: Tensor, x: Tensor, y: Tensor, epsilon: float | Tensor, *, rounding: float
) -> tuple[Tensor, Tensor]:
    """Return A (n, k), B (m, k) with A Bᵀ = K(x, z) K(z, z)⁺ K(z, y), right to `rounding` times the diagonal of K.

    Directions of K(z, z) that matter less are left out. Where what is left allows it, rounding counting as u / √λ for
    the least eigenvalue λ, blocks are in the dtype of the points, and twice as fast as in float64. Gradients pass to x,
    y and ε; the landmarks are constants.
    """

    def gram(p: Tensor, q: Tensor) -> Tensor:
        return stream(kernel, p, q, epsilon=epsilon).dense()

    core = gram(landmarks.double(), landmarks.double())
    values, vectors = torch.linalg.eigh(core.detach())
    relative = values / core.detach().diagonal().mean()
    unit = torch.finfo(torch.float64).eps
    keep = relative > max((unit * len(core)) ** (2 / 3), 0.1 * rounding * len(core))
    narrow = torch.finfo(x.dtype).eps * float(relative[keep].amin()) ** -0.5 < rounding
    dtype = x.dtype if narrow else torch.float64
    root = vectors[:, keep] * values[keep].rsqrt()
    to, step = landmarks.to(dtype), max(1, CHUNK // len(landmarks))

    def factor(points: Tensor) -> Tensor:
        parts = points.to(dtype).split(step)  # type: ignore[no-untyped-call]
        return torch.cat([(gram(part, to) @ root.to(dtype)).to(x.dtype) for part in parts])

    left = factor(x)
    same = x.data_ptr() == y.data_ptr() and x.shape == y.shape and x.stride() == y.stride()
    right = left if same else factor(y)
    if core.requires_grad:
        # The product in brackets is I: this changes the derivative alone, which becomes that of K(z, z)⁺. The one of
        # eigenvectors would explode where two eigenvalues are close.
        left = 2 * left - left @ (root.mT @ core @ root).to(x.dtype)
    return left, right
