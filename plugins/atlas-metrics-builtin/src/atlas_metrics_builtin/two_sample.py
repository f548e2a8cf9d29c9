"""The metric `two-sample`."""

from __future__ import annotations

import attrs
import numpy as np
from torch import Tensor

from atlas_core.contracts import Batch, DataSpec, MetricResult
from atlas_metrics_builtin.rows import TwoSets, equal_sizes


@attrs.define
class TwoSample(TwoSets):
    """Tell whether a classifier can: its accuracy in telling generated from real data; 0.5 is chance, 1 is a give-away.

    A random forest, accuracy over stratified folds, as many generated as real samples. Values are rounded to the grey
    levels of the data first: a network's continuous values would otherwise give it away without saying anything of
    interest. It sees what means and covariances do not: a full-covariance Gaussian a class fails it.
    """

    better = "lower"
    paper = "Lopez-Paz & Oquab 2017, sec. 3"

    trees: int = attrs.field(default=100, validator=attrs.validators.ge(1), metadata={"help": "Trees of the forest."})
    folds: int = attrs.field(
        default=5, validator=attrs.validators.ge(2), metadata={"help": "Folds of the cross-validation."}
    )
    size: int = attrs.field(
        default=2000,
        validator=attrs.validators.ge(2),
        metadata={"help": "Most samples of either set that are compared."},
    )
    seed: int = attrs.field(default=0, metadata={"help": "Seed of the forest, the folds and the subset that is drawn."})
    spec: DataSpec | None = attrs.field(default=None, init=False, repr=False)

    def fit(self, train: Batch, spec: DataSpec) -> None:
        """Remember the range and the grey levels of the data."""
        self.spec = spec

    def features_of(self, x: Tensor) -> Tensor:
        x = TwoSets.features_of(self, x)
        if self.spec is None or self.spec.levels is None or self.spec.value_range is None:
            return x
        low, high = self.spec.value_range
        return ((x - low) / (high - low) * (self.spec.levels - 1)).round().clamp(0, self.spec.levels - 1)

    def compute(self) -> MetricResult:
        """Raises ValueError with fewer samples than folds on either side."""
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.model_selection import StratifiedKFold, cross_val_predict

        generated, real = equal_sizes(*self.both(at_least=self.folds), self.size, self.seed)
        if len(generated) < self.folds:
            raise ValueError(f"two-sample with {self.folds} folds needs size >= {self.folds}, not {self.size}")
        x = np.concatenate([generated.numpy(), real.numpy()])
        y = np.repeat([1, 0], len(generated))
        forest = RandomForestClassifier(self.trees, random_state=self.seed)
        folds = StratifiedKFold(self.folds, shuffle=True, random_state=self.seed)
        right = cross_val_predict(forest, x, y, cv=folds) == y
        details = {
            "standard_error": float(np.sqrt(right.mean() * (1 - right.mean()) / len(right))),
            "generated_found": float(right[y == 1].mean()),
            "n_real": len(real),
        }
        levels = None if self.spec is None else self.spec.levels
        features = "pixels" if levels is None else f"pixels, {levels} levels"
        return MetricResult(float(right.mean()), len(generated), features, details=details)
