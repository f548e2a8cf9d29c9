"""A kernel with heavy tails: everything that this package has to offer, in one file."""

import attrs
import torch
from torch import Tensor


@attrs.frozen
class Cauchy:
    """Match points that lie far apart as well as near ones: outliers cost little.

    k(x, y) = 1 / (1 + |x − y|² / s²), which as a transport cost is log(1 + |x − y|² / s²): quadratic up close, and
    logarithmic far away.
    """

    has_log = True
    item_ndim = 1
    paper = "Rasmussen & Williams 2006, eq. 4.19 with α = 1"

    scale: float = attrs.field(
        default=1.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "Distance s at which k has fallen to one half, in the units of the data."},
    )

    def log_kernel(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log k for each pair of points, (n, d) and (m, d) -> (n, m)."""
        # log1p of an exactly computed distance: k(x, x) is 1, and near points keep their digits.
        distance = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        return -torch.log1p((distance / self.scale) ** 2)
