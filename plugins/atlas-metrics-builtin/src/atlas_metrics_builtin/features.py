"""The spaces that samples are compared in: pixels, or what a small classifier of the real training split sees."""

from __future__ import annotations

import math
from typing import Any, Literal
from weakref import WeakKeyDictionary

import attrs
import torch
from torch import Tensor, nn

from atlas_core.contracts import Batch, DataSpec
from atlas_metrics_builtin.rows import TwoSets, labelled

WIDTH = 64
"""Width of the penultimate layer: small, so that a covariance is well estimated from some hundred images."""
LARGEST = 32
"""Larger images are averaged down to this side before the classifier sees them."""
STEPS, BATCH, RATE = 300, 64, 3e-3


def _network(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Return layers whose last is the linear read-out of the WIDTH features before it."""
    if len(shape) == 3:
        blocks: list[nn.Module] = []
        first = 2 if max(shape[1:]) > 16 else 1
        for channels, width, stride in ((shape[0], 16, first), (16, 32, 2), (32, 64, 2)):
            blocks += [nn.Conv2d(channels, width, 3, stride, 1), nn.BatchNorm2d(width), nn.SiLU()]
        body = [*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * 64, WIDTH), nn.SiLU()]
    else:
        body = [nn.Flatten(), nn.Linear(math.prod(shape), 128), nn.SiLU(), nn.Linear(128, WIDTH), nn.SiLU()]
    return nn.Sequential(*body, nn.Linear(WIDTH, classes))


@attrs.define
class Classifier:
    """A small network of the real training split; its penultimate layer tells classes apart and ignores pixel noise.

    Images (c, h, w) go through three convolutions, items of any other shape through two linear layers. Trained for
    300 steps of 64 by AdamW from a seed of its own; the global random state is left as it was.
    """

    seed: int
    network: Any = attrs.field(init=False, default=None)
    mean: Tensor = attrs.field(init=False, factory=lambda: torch.zeros(()))
    std: Tensor = attrs.field(init=False, factory=lambda: torch.ones(()))

    def fit(self, x: Tensor, labels: Tensor, classes: int) -> Classifier:
        """Train on x (n, *item) and labels (n,), int64."""
        self.mean, self.std = x.float().mean(), x.float().std().clamp_min(1e-6)
        x = self._prepare(x)
        # fork_rng restores the CPU generator that the layers' initialisation draws from; no other is touched.
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.default_generator.manual_seed(self.seed)
            network = _network(tuple(x.shape[1:]), classes)
            optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.05, fused=True)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
            for _ in range(STEPS):
                rows = torch.randint(len(x), (BATCH,))
                loss = nn.functional.cross_entropy(network(x[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
        self.network = network.eval().requires_grad_(False)
        return self

    def _prepare(self, x: Tensor) -> Tensor:
        x = (x.float() - self.mean) / self.std
        if x.ndim == 4 and max(x.shape[-2:]) > LARGEST:
            size = [min(side, LARGEST) for side in x.shape[-2:]]
            x = nn.functional.interpolate(x, size=size, mode="area")
        return x

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Map items (b, *item) to (b, 64)."""
        return torch.cat([self.network[:-1](self._prepare(chunk)) for chunk in torch.split(x, 512)])

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Map items (b, *item) to class indices (b,)."""
        return torch.as_tensor(self.network[-1](self.features(x)).argmax(1))


_TRAINED: WeakKeyDictionary[Batch, dict[int, Classifier]] = WeakKeyDictionary()


def _classifier_of(train: Batch, labels: Tensor, classes: int, seed: int) -> Classifier:
    """Train once for all metrics that are shown the same batch with the same seed; forgotten with the batch."""
    trained = _TRAINED.setdefault(train, {})
    if seed not in trained:
        trained[seed] = Classifier(seed).fit(train.x, labels, classes)
    return trained[seed]


def _features_field() -> Any:
    return attrs.field(
        default="pixels",
        validator=attrs.validators.in_(("pixels", "classifier")),
        metadata={
            "help": "`pixels`: the values as they are; `classifier`: the penultimate layer of a small network that is "
            "trained on the real training split (needs classes)."
        },
    )


@attrs.define
class FeatureSets(TwoSets):
    """Two sets of rows in the chosen feature space."""

    features: Literal["pixels", "classifier"] = _features_field()
    seed: int = attrs.field(
        default=0, metadata={"help": "Seed of the feature classifier and of every subset that is drawn."}
    )
    classifier: Classifier | None = attrs.field(default=None, init=False, repr=False)

    def fit(self, train: Batch, spec: DataSpec) -> None:
        """Train the feature classifier, if one is wanted, on the real training split."""
        if self.features == "classifier":
            labels = labelled(train, spec, f"{type(self).__name__}(features='classifier')")
            self.classifier = _classifier_of(train, labels, len(spec.classes), self.seed)

    def features_of(self, x: Tensor) -> Tensor:
        if self.features == "pixels":
            return TwoSets.features_of(self, x)
        if self.classifier is None:
            raise ValueError(
                f"{type(self).__name__}(features='classifier') has to see `fit(train, spec)` before any update"
            )
        return self.classifier.features(x)
