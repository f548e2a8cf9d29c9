"""Two ranks with a padded row between them give the numbers of one: exactly, in any order of arrival."""

from __future__ import annotations

import pickle

import attrs
import pytest
import torch
from atlas_metrics_builtin.conditional_accuracy import ConditionalAccuracy
from atlas_metrics_builtin.frechet_distance import FrechetDistance
from atlas_metrics_builtin.mmd import MMD
from atlas_metrics_builtin.nearest_neighbour import NearestNeighbour
from atlas_metrics_builtin.precision_recall import PrecisionRecall
from atlas_metrics_builtin.sliced_wasserstein import SlicedWasserstein
from atlas_metrics_builtin.two_sample import TwoSample

from atlas_core import build
from atlas_core.contracts import Batch, Metric

METRICS = [FrechetDistance, ConditionalAccuracy, MMD, NearestNeighbour, PrecisionRecall, SlicedWasserstein, TwoSample]
QUICK = {TwoSample: {"trees": 5}}


def part(batch, rows):
    rows = torch.as_tensor(rows)
    return Batch(batch.x[rows], batch.condition[rows], index=batch.index[rows])


@pytest.fixture
def sets(labelled):
    train, spec = labelled
    generated = Batch(train.x.flip(0) + 0.1, train.condition.flip(0), index=torch.arange(120))
    return generated, train, spec


def fitted(kind, sets):
    metric = kind(**QUICK.get(kind, {}))
    if hasattr(metric, "fit"):
        metric.fit(sets[1], sets[2])
    return metric


@pytest.mark.parametrize("kind", METRICS)
def test_two_ranks_merge_to_one(kind, sets):
    generated, real, _ = sets
    whole = fitted(kind, sets)
    whole.update(generated, real)
    one, two = fitted(kind, sets), fitted(kind, sets)
    # Rank two comes first, is fed in two pieces, and both ranks hold the padded row 0.
    two.update(part(generated, [*range(80, 120), 0]))
    two.update(real=part(real, [*range(40), 119]))
    one.update(part(generated, range(80)), part(real, range(40, 120)))
    two.merge(one.state())
    assert two.compute() == whole.compute()


@pytest.mark.parametrize("kind", METRICS)
def test_state_survives_a_round_trip_and_is_all_there_is(kind, sets):
    metric = fitted(kind, sets)
    assert isinstance(metric, Metric)
    empty = metric.state()
    metric.update(sets[0], sets[1])
    other = fitted(kind, sets)
    other.load_state({name: tensor.clone() for name, tensor in metric.state().items()})
    assert other.compute() == metric.compute()
    metric.load_state(empty)
    with pytest.raises(ValueError, match=r"at least|needs"):
        metric.compute()


@pytest.mark.parametrize("kind", METRICS)
def test_config_is_the_init_fields_and_pickles(kind):
    metric = kind()
    config = {field.name: getattr(metric, field.name) for field in attrs.fields(kind) if field.init}
    assert attrs.asdict(pickle.loads(pickle.dumps(metric))) == attrs.asdict(kind(**config))  # noqa: S301
    assert all(field.metadata.get("help") for field in attrs.fields(kind) if field.init)


def test_the_index_argument_names_rows_and_rows_without_one_are_all_kept(sets):
    generated, real, _ = sets
    bare = Batch(generated.x, generated.condition)
    metric = FrechetDistance()
    metric.update(bare, index=torch.zeros(120, dtype=torch.long) + 7)
    metric.update(bare)
    metric.update(real=real)
    assert metric.compute().n == 121
    with pytest.raises(ValueError, match="index"):
        metric.update(bare, index=torch.arange(3))


DIFFERENT = [
    (TwoSample(trees=1), TwoSample(trees=30)),
    (TwoSample(folds=2, trees=10), TwoSample(folds=7, trees=10)),
    (TwoSample(seed=0, trees=10), TwoSample(seed=1, trees=10)),
    (TwoSample(size=30, trees=10), TwoSample(trees=10)),
    (PrecisionRecall(neighbours=1), PrecisionRecall(neighbours=7)),
    (PrecisionRecall(size=20), PrecisionRecall()),
    (PrecisionRecall(size=20), PrecisionRecall(size=20, seed=1)),
    (PrecisionRecall(features="classifier"), PrecisionRecall()),
    (ConditionalAccuracy(penalty=1e-3), ConditionalAccuracy()),
    (MMD(size=20), MMD()),
    (MMD(size=20), MMD(size=20, seed=1)),
    (MMD(kernel=build("kernel", "atlas-kernels-builtin:gaussian", bandwidth=2.0)), MMD()),
    (SlicedWasserstein(directions=20), SlicedWasserstein()),
    (SlicedWasserstein(seed=1), SlicedWasserstein()),
]


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_every_setting_changes_the_result(a, b, labelled):
    train, spec = labelled
    # The judge is never wrong on images that are blurred less.
    blur = 1.0 if isinstance(a, ConditionalAccuracy) else 0.5
    blurred = train.x + blur * torch.randn(train.x.shape, generator=torch.Generator().manual_seed(1))
    generated = Batch(blurred, train.condition, index=train.index)
    results = []
    for metric in (a, b):
        if hasattr(metric, "fit"):
            metric.fit(train, spec)
        metric.update(generated, train)
        results.append(metric.compute())
    assert results[0] != results[1]
