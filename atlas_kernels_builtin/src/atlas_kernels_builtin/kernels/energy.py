"""The energy kernel, behind the energy distance."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor


@attrs.frozen
class Energy:
    """Compare distributions without choosing a bandwidth: the kernel of the energy distance.

    k(x, y) = −|x − y|, signed and positive definite only on vectors that sum to 0: good for differences of
    distributions (the MMD with this kernel is half of the squared energy distance), no transport cost.
    """

    has_log = False
    item_ndim = 1
    paper = "Sejdinovic, Sriperumbudur, Gretton & Fukumizu 2013"

    def block(self, x: Tensor, y: Tensor) -> Tensor:
        """Return k of every pair: (n, d), (m, d) -> (n, m)."""
        return -torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
