"""The metric `nearest-neighbour`."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Batch, DataSpec, MetricResult
from atlas_metrics_builtin.rows import TwoSets


def nearest_distances(x: Tensor, among: Tensor) -> Tensor:
    """Euclidean distance of each row of x (n, d) to the nearest row of `among` (m, d): (n,), float64; 0 for a copy."""
    among = among.double()
    squares = among.square().sum(1)
    found = []
    for chunk in torch.split(x.double(), 1024):
        # The expansion of |x − y|² is fast and finds the neighbour; only the difference itself gives a copy distance 0.
        nearest = (squares - 2 * chunk @ among.T).argmin(1)
        found.append((chunk - among[nearest]).square().sum(1).sqrt())
    return torch.cat(found)


@attrs.define
class NearestNeighbour(TwoSets):
    """Tell copying from drawing: the median distance of a sample to the nearest training image.

    Far below that of real held-out images the generator repeats its training data, far above it the samples lie off the
    data; so the floor is the value of the held-out split, and the nearer to it the better. In pixels, Euclidean.
    """

    better = "match"
    paper = "Meehan et al. 2020, sec. 2"

    train: Tensor | None = attrs.field(default=None, init=False, repr=False)

    def fit(self, train: Batch, spec: DataSpec) -> None:
        """Remember the training images."""
        self.train = self.features_of(train.x.detach().cpu())

    def compute(self) -> MetricResult:
        """Raises ValueError before `fit`, or without a single sample on either side."""
        if self.train is None:
            raise ValueError(
                "nearest-neighbour has to see `fit(train, spec)`: the images that copies would be copies of"
            )
        generated, real = (nearest_distances(rows, self.train) for rows in self.both(at_least=1))
        value, floor = float(generated.quantile(0.5)), float(real.quantile(0.5))
        details = {
            "real": floor,
            "ratio": value / floor if floor > 0 else float("inf") if value > 0 else 1.0,
            "copies": float((generated == 0).double().mean()),
            "n_real": len(real),
        }
        return MetricResult(value, len(generated), "pixels", floor=floor, details=details)
