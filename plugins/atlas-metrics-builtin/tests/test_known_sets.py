"""Each metric on sets whose score can be worked out by hand or is known in distribution."""

from __future__ import annotations

import math

import pytest
import torch
from atlas_metrics_builtin.conditional_accuracy import ConditionalAccuracy
from atlas_metrics_builtin.nearest_neighbour import NearestNeighbour
from atlas_metrics_builtin.precision_recall import PrecisionRecall
from atlas_metrics_builtin.two_sample import TwoSample

from atlas_core.contracts import Batch, DataSpec


def test_nearest_neighbour_distances_are_exact(as_batch, plane):
    metric = NearestNeighbour()
    metric.fit(as_batch([[0.0, 0.0], [10.0, 0.0]]), plane)
    metric.update(as_batch([[3.0, 4.0], [10.0, 0.0], [10.0, 1.0]]), as_batch([[0.0, 2.0], [12.0, 0.0], [0.0, 0.0]]))
    result = metric.compute()
    assert result.value == 1.0  # the median of 5, 0 and 1
    assert result.floor == 2.0  # of 2, 2 and 0
    assert result.details["ratio"] == 0.5
    assert result.details["copies"] == pytest.approx(1 / 3)
    assert result.n == 3


def test_a_copy_has_distance_zero_however_large_its_values(as_batch, plane, normal):
    train = normal(100) + 1e4
    metric = NearestNeighbour()
    metric.fit(as_batch(train), plane)
    metric.update(as_batch(train[:10]), as_batch(train[:10] + 1))
    assert (metric.compute().value, metric.compute().details["copies"]) == (0.0, 1.0)


def test_precision_and_recall_of_lines(as_batch):
    # Real points 0, 1, …, 9 on a line; k = 1 gives every ball the radius 1, so the real manifold is [−1, 10].
    # Generated 0.5, 2.5, 30, 32, …: two of ten lie in it. Their balls have radius 2 (30 on), 2 and 2 for the first two,
    # so the generated manifold near the real data is [−1.5, 4.5], which holds 0 … 4, five of ten.
    real = [[float(i), 0.0] for i in range(10)]
    generated = [[0.5, 0.0], [2.5, 0.0], *([30.0 + 2 * i, 0.0] for i in range(8))]
    metric = PrecisionRecall(neighbours=1)
    metric.update(as_batch(generated), as_batch(real))
    result = metric.compute()
    assert (result.value, result.details["recall"], result.n) == (0.2, 0.5, 10)


def test_precision_recall_sees_a_lost_mode_as_recall_and_a_false_one_as_precision(as_batch, normal):
    left, right = normal(200, seed=1, mean=-20), normal(200, seed=2, mean=20)
    both, more = torch.cat([left[:100], right[:100]]), normal(200, seed=3, mean=-20)
    lost, false = PrecisionRecall(), PrecisionRecall()
    lost.update(as_batch(more), as_batch(both))
    false.update(as_batch(both), as_batch(more))
    assert lost.compute().value > 0.9
    assert lost.compute().details["recall"] < 0.55
    assert false.compute().value < 0.55
    assert false.compute().details["recall"] > 0.9


def test_two_samples_of_one_distribution_cannot_be_told_apart(as_batch, normal):
    n = 400
    metric = TwoSample(trees=50)
    metric.update(as_batch(normal(n, 5, seed=1)), as_batch(normal(n, 5, seed=2)))
    result = metric.compute()
    # Folds are not independent; three binomial standard errors of 2 n tosses are the test's usual allowance.
    assert abs(result.value - 0.5) < 3 * math.sqrt(0.25 / (2 * n))
    assert result.n == n


def test_disjoint_sets_are_told_apart_always(as_batch, normal):
    metric = TwoSample(trees=20)
    metric.update(as_batch(normal(150)), as_batch(normal(60, mean=50)))
    result = metric.compute()
    assert (result.value, result.n, result.details["n_real"]) == (1.0, 60, 60)


def test_two_sample_compares_grey_levels_not_float_noise(as_batch):
    # Real pixels lie on 5 levels; generated ones are off by up to a quarter of a level, which would give them away.
    generator = torch.Generator()

    def level(seed):
        return torch.randint(5, (300, 1, 2, 2), generator=generator.manual_seed(seed)) / 2 - 1

    noisy = level(1) + 0.12 * (2 * torch.rand(300, 1, 2, 2, generator=generator) - 1)
    values = []
    for levels in (5, None):
        metric = TwoSample(trees=20)
        metric.fit(as_batch(level(3)), DataSpec((1, 2, 2), levels=levels))
        metric.update(as_batch(noisy), as_batch(level(2)))
        values.append(metric.compute())
    assert abs(values[0].value - 0.5) < 3 * math.sqrt(0.25 / 600)
    assert values[1].value > 0.95
    assert [result.features for result in values] == ["pixels, 5 levels", "pixels"]


def test_conditional_accuracy_counts_what_the_judge_recognises(labelled):
    train, spec = labelled
    metric = ConditionalAccuracy()
    metric.fit(train, spec)
    wrong = train.condition.clone()
    wrong[:30] = (wrong[:30] + 1) % 3  # asked for another class than is shown
    metric.update(Batch(train.x, wrong), train)
    result = metric.compute()
    assert result.value == pytest.approx(0.75)
    assert result.floor == result.details["real"] == 1.0
    assert result.features == "pixels"


def test_conditional_accuracy_projects_large_images_first(labelled):
    train, _ = labelled
    wide = train.x.repeat(1, 1, 5, 5)  # 900 values
    spec = DataSpec((1, 30, 30), None, ("a", "b", "c"))
    metric = ConditionalAccuracy()
    metric.fit(Batch(wide, train.condition), spec)
    metric.update(Batch(wide, train.condition), Batch(wide, train.condition))
    assert metric.compute().value == 1.0
    assert metric.compute().features == "pixels, 120 principal components"


@pytest.mark.parametrize(
    ("metric", "needed"),
    [
        (PrecisionRecall(neighbours=5), "at least 6 real"),
        (TwoSample(), "at least 5 real"),
        (PrecisionRecall(), "at least 4 real"),
    ],
)
def test_too_few_samples_are_said_with_the_number_needed(metric, needed, as_batch, normal):
    metric.update(as_batch(normal(20)), as_batch(normal(2)))
    with pytest.raises(ValueError, match=needed):
        metric.compute()


def test_what_has_to_be_fitted_or_labelled_says_so(as_batch, plane, normal, labelled):
    x = as_batch(normal(20))
    with pytest.raises(ValueError, match="fit"):
        NearestNeighbour().compute()
    with pytest.raises(ValueError, match="fit"):
        ConditionalAccuracy().compute()
    with pytest.raises(ValueError, match="data with classes"):
        ConditionalAccuracy().fit(x, plane)
    train, spec = labelled
    metric = ConditionalAccuracy()
    metric.fit(train, spec)
    metric.update(Batch(train.x), train)
    with pytest.raises(ValueError, match="class of each generated sample"):
        metric.compute()
