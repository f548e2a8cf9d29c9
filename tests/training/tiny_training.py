"""A training of milliseconds that has all that a resume could lose: augmentation, dropout, labels, a buffer.

Nothing here comes from another distribution: the trainer is tested against the contracts alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from atlas_core.config.sections import TrainConfig
from atlas_core.contracts import Condition, DataSpec, Example, LossOutput
from atlas_core.engine.training.keys import seeded_build
from atlas_core.engine.training.trainer import Trainer
from atlas_core.runs.folder import RunFolder

TABLE: dict[str, Any] = {"model": {"use": "tiny", "width": 8}, "data": {"use": "points", "root": "/here"}}


@attrs.frozen
class Rows:
    """A split that is a tensor."""

    x: Tensor = attrs.field(eq=False)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Example:
        return Example(self.x[index], index % 3, index)


@attrs.frozen
class Points:
    """37 points in the plane: a number that no batch size divides."""

    count: int = 37
    augmented: bool = True
    splits = ("train", "test")

    @property
    def spec(self) -> DataSpec:
        return DataSpec(shape=(2,), value_range=None, classes=("a", "b", "c"))

    def split(self, name: str) -> Rows:
        generator = torch.Generator().manual_seed(self.splits.index(name))
        return Rows(torch.randn(self.count, 2, generator=generator) * 0.5 + 1)

    def augment(self, x: Tensor, noise: Any, step: int) -> Tensor:
        return x + 0.1 * noise.normal("jitter", step, x) if self.augmented else x


class Labels(nn.Module):
    """A table of vectors, with one more for "nothing said"."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.dropout = dropout
        self.table = nn.Embedding(4, 3)

    def encode(self, inputs: Any) -> Condition:
        return Condition(vector=self.table(torch.tensor(list(inputs), device=self.table.weight.device)))

    def null(self, batch: int) -> Condition:
        return Condition(vector=self.table(torch.full((batch,), 3, device=self.table.weight.device)))


class Tiny(nn.Module):
    """Predicts x̂₀ from x, t and a label."""

    process = None
    parametrization = None

    def __init__(self, dropout: float = 0.1, conditioner: Labels | None = None) -> None:
        super().__init__()
        self.conditioner = conditioner
        self.net = nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Dropout(dropout), nn.Linear(8, 2))
        self.register_buffer("calls", torch.zeros(()))

    def x0(self, x: Tensor, t: Tensor, condition: Condition | None = None, *, t_end: Any = None) -> Tensor:
        if self.training:
            self.calls += 1
        told = condition.vector if condition is not None else x.new_zeros(len(x), 3)
        return self.net(torch.cat([x, t.to(x)[:, None], told], dim=1))


@attrs.frozen
class Regression:
    """E |x̂₀(x_t, t) − x₀|² with x_t = (1 − t) x₀ + t z."""

    networks = frozenset({"denoiser"})
    couples_batch = False
    poison_step: int = -1

    def loss(self, networks: Any, batch: Any, noise: Any) -> LossOutput:
        t = noise.uniform("time", batch.step)
        z = noise.normal("noise", batch.step, batch.x) if batch.source is None else batch.source
        a = t.to(batch.x)[:, None]
        error = networks["denoiser"].x0((1 - a) * batch.x + a * z, t, batch.condition) - batch.x
        per_sample = error.float().square().mean(1)
        if batch.step == self.poison_step:
            per_sample = per_sample * float("nan")
        return LossOutput(per_sample, {"mean_time": t.detach(), "distance": (z - batch.x).square().mean(1)})


@attrs.frozen
class Coupled(Regression):
    """The same with the noise sorted along with the data, within each label: rows depend on the whole batch."""

    couples_batch = True

    def source(self, batch: Any, noise: Any) -> Tensor:
        return noise.normal("noise", batch.step, batch.x)

    def pairs(self, batch: Any, noise: Any) -> Tensor:
        assert noise.rows == len(batch.index) == len(batch.source) == len(batch.x)
        far = 1000 * torch.tensor(batch.condition)
        pairs = torch.empty_like(batch.index)
        pairs[(batch.x[:, 0] + far).argsort()] = (batch.source[:, 0] + far).argsort()
        return pairs


def config(**changes: Any) -> TrainConfig:
    """A short training with every event due several times, at steps that do not coincide."""
    defaults = {
        "steps": 60,
        "batch": 8,
        "seed": 3,
        "warmup_steps": 5,
        "log_every": 7,
        "validate_every": 11,
        "sample_every": 0,
        "checkpoint_every": 10,
        "device": "cpu",
    }
    return TrainConfig(**(defaults | changes))


def tiny(dropout: float = 0.1, conditioner: bool = True) -> Tiny:
    return seeded_build(lambda: Tiny(dropout, Labels() if conditioner else None), 3)


def trainer(folder: Path, settings: TrainConfig | None = None, **parts: Any) -> Trainer:
    """A trainer of all of this in the run `folder`."""
    return Trainer(
        parts.pop("network", None) or tiny(),
        parts.pop("objective", Regression()),
        parts.pop("dataset", Points()),
        settings or config(),
        RunFolder(folder),
        plan_table=parts.pop("table", TABLE),
        lock={"model": {"version": "1"}},
        **parts,
    )
