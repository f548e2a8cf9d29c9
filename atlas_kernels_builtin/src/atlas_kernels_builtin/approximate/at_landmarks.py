"""The factors of a Nyström approximation whose landmarks are chosen already."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Kernel
from atlas_kernels_builtin.exact.streaming import stream

CHUNK = 2**23
"""Entries of a block of the kernel that is multiplied at a time."""
SWEEPS = 12
"""Of the power method, from above, for the least eigenvalue; half of what it finds is trusted."""


@attrs.frozen(eq=False)
class Factors:
    """A M Bᵀ = K(x, z) K(z, z)⁺ K(z, y)."""

    left: Tensor
    """A, (n, k)."""
    right: Tensor
    """B, (m, k)."""
    middle: Tensor | None
    """M in float64, (k, k); None: the identity."""


def factors_at(
    kernel: Kernel, landmarks: Tensor, x: Tensor, y: Tensor, epsilon: float | Tensor, *, rounding: float
) -> Factors:
    """Return the factors of x (n, *item), y (m, *item), right to `rounding` times the diagonal of K.

    Rounding in K(x, z) counts as u / √λ for the least eigenvalue λ of K(z, z). Where that allows it, A and B are the
    kernels as they are, in the dtype of the points, and M = K(z, z)⁻¹: nothing of the size of n or m is multiplied.
    Elsewhere, and for gradients, directions of K(z, z) that matter less are left out, and A and B are multiplied with
    the root of what is left, in float64 unless the dtype does now. Gradients pass to x, y, ε and the landmarks.
    """

    def gram(p: Tensor, q: Tensor) -> Tensor:
        return stream(kernel, p, q, epsilon=epsilon).dense()

    core = gram(landmarks.double(), landmarks.double())
    graph = torch.is_grad_enabled() and any(t.requires_grad for t in (x, y, core))
    inverse = None if graph else _inverse(core, x.dtype, rounding)
    same = x.data_ptr() == y.data_ptr() and x.shape == y.shape and x.stride() == y.stride()

    def factor(points: Tensor, dtype: torch.dtype, root: Tensor | None) -> Tensor:
        to = landmarks.to(dtype)
        parts = points.to(dtype).split(max(1, CHUNK // len(landmarks)))  # type: ignore[no-untyped-call]
        made = [gram(part, to) if root is None else (gram(part, to) @ root).to(x.dtype) for part in parts]
        return made[0] if len(made) == 1 else torch.cat(made)

    if inverse is not None:
        left = factor(x, x.dtype, None)
        return Factors(left, left if same else factor(y, x.dtype, None), inverse)
    root, signs, least = _inverse_root(core.detach(), rounding)
    dtype = x.dtype if torch.finfo(x.dtype).eps * least**-0.5 < rounding else torch.float64
    left = factor(x, dtype, root.to(dtype))
    right = left if same else factor(y, dtype, root.to(dtype))
    left = left * signs.to(x.dtype)
    if core.requires_grad:
        # RᵀWR is S, so this changes nothing but the derivative, which becomes that of W⁺. The one of eigenvectors
        # would explode where two eigenvalues are close.
        left = 2 * left - left @ (root.mT @ core @ root * signs).to(x.dtype)
    return Factors(left, right, None)


def _inverse(core: Tensor, dtype: torch.dtype, rounding: float) -> Tensor | None:
    """K(z, z)⁻¹, if it is positive definite and so well conditioned that blocks in `dtype` are right to `rounding`."""
    root, failed = torch.linalg.cholesky_ex(core)
    if bool(failed):
        return None
    vector = torch.ones(len(core), 1, dtype=core.dtype, device=core.device)
    for _ in range(SWEEPS):
        vector = torch.cholesky_solve(vector / vector.norm(), root)
    least = 0.5 / (float(vector.norm()) * float(core.diagonal().mean()))
    if not 0 < torch.finfo(torch.float64).eps / least < rounding or torch.finfo(dtype).eps * least**-0.5 >= rounding:
        return None
    return torch.cholesky_inverse(root)


def cut(rounding: float, rank: int) -> float:
    """The eigenvalue of K(z, z), in units of its diagonal, below which a direction of `rank` ones is left out.

    Without a direction of eigenvalue λ about λ / r is lost of an entry, in units of the diagonal: no less than
    `rounding` is worth a column. With it, the rounding u of float64 itself, in K(x, z), counts as u / √λ: that meets
    λ / r at λ = (u r)^(2/3), the least of all cuts.
    """
    unit: float = torch.finfo(torch.float64).eps
    return float(max((unit * rank) ** (2 / 3), 0.1 * rounding * rank))


def _inverse_root(core: Tensor, rounding: float) -> tuple[Tensor, Tensor, float]:
    """R (r, k) and signs S (k,) with R S Rᵀ = K(z, z)⁺ but for the k ≤ r directions below the `cut`.

    And the least eigenvalue of the others, in units of the diagonal, or of all entries if that is zero. Signs are 1 for
    a positive definite kernel.
    """
    values, vectors = torch.linalg.eigh(core)
    unit = float(core.diagonal().abs().mean()) or float(core.abs().mean())
    keep = values.abs() > unit * cut(rounding, len(core))
    if not bool(keep.any()):
        return vectors[:, :0], values[:0].sign(), 1.0
    least = float(values[keep].abs().amin() / unit)
    return vectors[:, keep] * values[keep].abs().rsqrt(), values[keep].sign(), least
