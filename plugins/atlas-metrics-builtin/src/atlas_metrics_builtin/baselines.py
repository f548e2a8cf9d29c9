"""The kind `baseline`: generators so simple that a trained network has to beat them somewhere."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Batch, DataSpec, NoiseSource
from atlas_metrics_builtin.rows import classes_in, labels_of


@attrs.define
class _ByClass:
    """The training images of each class; data without classes is one class, -1."""

    images: dict[int, Tensor] = attrs.field(factory=dict, init=False, repr=False)

    def fit(self, train: Batch, spec: DataSpec) -> None:
        """Remember the training split, class by class."""
        labels = labels_of(train.condition, len(train.x))
        self.images = {k: train.x[labels == k].detach().cpu().float() for k in classes_in(labels)}

    def rows_by_class(self, labels: Tensor | None, rows: int) -> list[tuple[Tensor, Tensor]]:
        """Return, for each class asked for, the rows (r,) that want it and its images (m, *item)."""
        if not self.images:
            raise ValueError(f"{type(self).__name__} has to see `fit(train, spec)` before it can draw")
        wanted = labels_of(labels, rows)
        if missing := set(classes_in(wanted)) - set(self.images):
            raise ValueError(f"no training image has class {sorted(missing)}; known classes: {sorted(self.images)}")
        return [(torch.nonzero(wanted == k).flatten(), self.images[k]) for k in classes_in(wanted)]


@attrs.define
class TrainingCopies(_ByClass):
    """Pass everything but the test for copies: training images of the class that is asked for.

    Drawn without replacement until a class is used up: repeated images would be told apart by their twins.
    """

    def sample(self, labels: Tensor | None, noise: NoiseSource) -> Tensor:
        """Return one training image a row. The order of the images is drawn from the first row's key."""
        drawn = [
            (rows, self._some(images, len(rows), noise)) for rows, images in self.rows_by_class(labels, noise.rows)
        ]
        rows = torch.cat([rows for rows, _ in drawn])
        return torch.cat([images for _, images in drawn])[rows.argsort()]

    def _some(self, images: Tensor, count: int, noise: NoiseSource) -> Tensor:
        order = noise.select(torch.tensor([0])).uniform("baseline.copies", 0, (len(images),))[0].argsort()
        return images[order[torch.arange(count) % len(images)]]


@attrs.define
class NoisyCopies(TrainingCopies):
    """Hide copies of training images under a little Gaussian noise."""

    std: float = attrs.field(
        default=0.1,
        validator=attrs.validators.ge(0),
        metadata={"help": "Standard deviation of the noise, in units of the data."},
    )

    def sample(self, labels: Tensor | None, noise: NoiseSource) -> Tensor:
        """Return one training image a row, plus noise of that row."""
        copies = TrainingCopies.sample(self, labels, noise)
        return copies + self.std * noise.normal("baseline.noise", 0, copies)


@attrs.define
class ClassGaussian(_ByClass):
    """Know means and covariances and nothing else: a full-covariance Gaussian for each class.

    x = m + Xᵀ_c w / √(n − 1) with w ~ N(0, I_n) and the n centred training images X_c of the class has exactly
    their mean and unbiased covariance, without forming it: no decomposition, no ridge, and a singular covariance
    (constant pixels, fewer images than pixels) stays what it is. A class of one image is that image.
    """

    def sample(self, labels: Tensor | None, noise: NoiseSource) -> Tensor:
        """Return one draw a row, from keys of that row alone."""
        parts, order = [], []
        for rows, images in self.rows_by_class(labels, noise.rows):
            weights = noise.select(rows).normal("baseline.gaussian", 0, torch.empty(len(rows), len(images)))
            mean = images.mean(0, keepdim=True)
            centred = (images - mean).flatten(1) / max(len(images) - 1, 1) ** 0.5
            parts.append(mean + (weights @ centred).unflatten(1, images.shape[1:]))
            order.append(rows)
        return torch.cat(parts)[torch.cat(order).argsort()]
