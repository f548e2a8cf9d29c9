"""The metric `conditional-accuracy`."""

from __future__ import annotations

from typing import Any

import attrs
import torch

from atlas_core.contracts import Batch, DataSpec, MetricResult
from atlas_metrics_builtin.rows import UNKNOWN, TwoSets, classes_in, labelled

LARGEST, COMPONENTS = 784, 128


@attrs.define
class ConditionalAccuracy(TwoSets):
    """Tell how often a sample shows the class it was asked for, by a judge it never met; higher is better.

    The judge is scikit-learn's support vector classifier (RBF, its defaults but for C) fitted on the pixels of the real
    training split; items of more than 784 values (28 × 28) are first projected on the first 128 principal components of
    the training split. The floor is the judge's accuracy on the real held-out split. A generator that draws one
    perfect image a class scores 1: read it beside the distances.
    """

    better = "higher"

    penalty: float = attrs.field(
        default=10.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "C of the support vector classifier: the larger, the less it is regularised."},
    )
    judge: Any = attrs.field(default=None, init=False, repr=False)
    classes: int = attrs.field(default=0, init=False, repr=False)

    def fit(self, train: Batch, spec: DataSpec) -> None:
        """Fit the judge. Raises ValueError for data without classes."""
        from sklearn.decomposition import PCA
        from sklearn.pipeline import make_pipeline
        from sklearn.svm import SVC

        labels = labelled(train, spec, "conditional-accuracy").numpy()
        x = self.features_of(train.x).numpy()
        steps: list[Any] = [SVC(C=self.penalty)]
        if x.shape[1] > LARGEST:
            # svd_solver is named since `auto` may be a randomised one, whose result a global seed would change.
            steps.insert(
                0, PCA(min(COMPONENTS, *x.shape), svd_solver="covariance_eigh" if x.shape[1] < 4096 else "full")
            )
        self.judge = make_pipeline(*steps).fit(x, labels)
        self.classes = len(spec.classes)

    def compute(self) -> MetricResult:
        """Raises ValueError before `fit`, without labels, or without a single sample on either side."""
        if self.judge is None:
            raise ValueError("conditional-accuracy has to see `fit(train, spec)` before it can judge")
        self.both(at_least=1)
        wanted, right = self._judged("generated")
        real = float(self._judged("real")[1].double().mean())
        each = {k: float(right[wanted == k].double().mean()) for k in classes_in(wanted)}
        worst = min(each, key=lambda k: (each[k], k))
        details = {"real": real, "worst_class": float(worst), "worst_class_accuracy": each[worst]}
        features = "pixels" if len(self.judge) == 1 else f"pixels, {self.judge[0].n_components_} principal components"
        return MetricResult(float(right.double().mean()), len(wanted), features, floor=real, details=details)

    def _judged(self, side: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the labels (n,) of a side and whether the judge agrees with each, (n,), bool."""
        x, labels, _ = getattr(self, side).read()
        if bool((labels == UNKNOWN).any()):
            raise ValueError(f"conditional-accuracy needs the class of each {side} sample in batch.condition")
        return labels, torch.from_numpy(self.judge.predict(x.numpy())) == labels
