"""The metric `precision-recall`."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import MetricResult
from atlas_metrics_builtin.features import FeatureSets
from atlas_metrics_builtin.rows import equal_sizes


def radii(x: Tensor, k: int) -> Tensor:
    """Distance of each row of x (n, d) to its k-th nearest other row: (n,)."""
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(k + 1, dim=1).values


def coverage(points: Tensor, manifold: Tensor, k: int) -> float:
    """Fraction of `points` (n, d) within the k-nearest-neighbour ball of any row of `manifold` (m, d) (eq. 1)."""
    distance = torch.cdist(points, manifold, compute_mode="donot_use_mm_for_euclid_dist")
    return float((distance <= radii(manifold, k)).any(1).double().mean())


@attrs.define
class PrecisionRecall(FeatureSets):
    """Tell fidelity from variety: precision is how many samples look real, recall how much of real data is reached.

    A set's manifold is the union of balls around its points, each out to the point's k-th nearest neighbour. Precision,
    the value, is the part of the generated points in the real manifold; recall, in the details, the part of the real
    points in the generated one. Both depend on the number of points, so the larger set is cut to the smaller.
    """

    better = "higher"
    paper = "Kynkäänniemi et al. 2019, eq. 1–2"

    neighbours: int = attrs.field(
        default=3,
        validator=attrs.validators.ge(1),
        metadata={"help": "k: the neighbour that a ball reaches to; the paper has 3."},
    )
    size: int = attrs.field(
        default=2000,
        validator=attrs.validators.ge(2),
        metadata={"help": "Most samples of either set that are compared."},
    )

    def compute(self) -> MetricResult:
        """Raises ValueError with k or fewer samples on either side."""
        generated, real = equal_sizes(*self.both(at_least=self.neighbours + 1), self.size, self.seed)
        if len(generated) <= self.neighbours:
            raise ValueError(
                f"precision-recall with k = {self.neighbours} needs size > {self.neighbours}, not {self.size}"
            )
        generated, real = generated.double(), real.double()
        details = {"recall": coverage(real, generated, self.neighbours), "n_real": len(real)}
        value = coverage(generated, real, self.neighbours)
        return MetricResult(value, len(generated), self.features, details=details)
