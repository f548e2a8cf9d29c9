"""Score the averaged weights on held-out data, with noise that never changes: the curve shows learning, not luck."""

from __future__ import annotations

import numpy as np
import torch

from atlas_core.contracts import Batch, Dataset
from atlas_core.engine.noise import CounterNoise
from atlas_core.engine.training.coupling import couples, paired
from atlas_core.engine.training.data import RowReader
from atlas_core.engine.training.keys import key
from atlas_core.engine.training.objective_step import ObjectiveStep
from atlas_core.engine.training.order import permutation

LIMIT = 2048
"""Most examples that are scored: enough for two digits, and the time stays small beside training."""


class Validation:
    """The mean loss over fixed held-out examples; each has the same time and noise whenever it is asked for."""

    def __init__(self, dataset: Dataset, split: str, *, seed: int, batch: int) -> None:
        self.split = split
        self._reader = RowReader(dataset.split(split), tuple(dataset.spec.shape))
        self._rows = np.sort(permutation(self._reader.count, seed, 0)[:LIMIT])
        self._seed = key(seed, "validation")
        self._batch = batch

    @classmethod
    def of(cls, dataset: Dataset, *, seed: int, batch: int) -> Validation | None:
        """Use the split `validation`, else `test`; None where the data set holds nothing out."""
        split = next((name for name in ("validation", "test") if name in dataset.splits), None)
        return cls(dataset, split, seed=seed, batch=batch) if split is not None else None

    def __call__(self, module: ObjectiveStep) -> float:
        """Return the mean loss of `module` (the averaged one) in float64."""
        device = next(module.parameters()).device
        coupled = couples(module.objective)
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(self._rows), self._batch):
                rows = self._rows[start : start + self._batch]
                x, conditions = self._reader.read(rows)
                index = torch.from_numpy(rows)
                batch = Batch(x=x.to(device), condition=conditions, index=index, step=0)
                noise = CounterNoise.for_training(self._seed, index)
                if coupled is not None:
                    batch = paired(coupled, batch, noise)
                per_sample, _ = module(batch, noise, drop=False)
                total += float(per_sample.double().sum() if device.type != "mps" else per_sample.sum())
        return total / len(self._rows)

    def close(self) -> None:
        self._reader.close()
