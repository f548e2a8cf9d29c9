"""The Gaussian kernel, whose transport cost is the squared distance."""

from __future__ import annotations

import attrs
from torch import Tensor

from atlas_kernels_builtin.kernels.distances import squared_distances
from atlas_kernels_builtin.kernels.parts import check_length


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
        validator=check_length,
        metadata={"help": "Standard deviation h of the bell, in the units of the data; the cost is |x − y|² / (2h²)."},
    )

    @property
    def quadratic(self) -> float:
        """c of log k = −c |x − y|² (see `RadialKernel`)."""
        return 0.5 / self.bandwidth**2

    def log_kernel(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log k of every pair: (n, d), (m, d) -> (n, m)."""
        return self.log_radial(squared_distances(x, y))

    def log_radial(self, squared: Tensor) -> Tensor:
        """Return log k of squared distances, of any shape (see `RadialKernel`)."""
        return squared * -self.quadratic
