"""The Gaussian kernel, whose transport cost is the squared distance."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor


@attrs.frozen
class Gaussian:
    """Compare points by squared distance: the kernel of quadratic optimal transport.

    k(x, y) = exp(−|x − y|² / (2h²)), hence the transport cost C = −log k = |x − y|² / (2h²). k(x, x) is exactly 1.
    """

    has_log = True
    item_ndim = 1
    paper = "Rasmussen & Williams 2006, eq. 4.9"

    bandwidth: float = attrs.field(
        default=1.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "Standard deviation h of the bell, in the units of the data; the cost is |x − y|² / (2h²)."},
    )

    def log_kernel(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log k of every pair: (n, d), (m, d) -> (n, m)."""
        # Expanding |x|² − 2xy + |y|² would be faster, and would lose the diagonal in float32.
        distance = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        return -(distance / (math.sqrt(2) * self.bandwidth)).square()
