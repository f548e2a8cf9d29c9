"""The table on real digits: training copies and a Gaussian a class, which must be seen through by different metrics."""

from __future__ import annotations

import pytest
import torch

from atlas_core import build
from atlas_core.engine.evaluation import evaluate, whole
from atlas_core.engine.noise import CounterNoise

METRICS = ("frechet-distance", "conditional-accuracy", "nearest-neighbour", "precision-recall", "two-sample")


@pytest.fixture(scope="module")
def table():
    dataset = build("dataset", "digits")
    gaussian = build("baseline", "class-gaussian")
    gaussian.fit(whole(dataset, "train"), dataset.spec)

    def draw(labels, seeds):
        return gaussian.sample(torch.tensor(labels), CounterNoise.from_seeds(seeds))

    metrics = [build("metric", name) for name in METRICS]
    baselines = [build("baseline", name) for name in ("training-copies", "noisy-copies", "class-gaussian")]
    return evaluate(draw, dataset, metrics, baselines, count=1000)


def scores(table, metric):
    return {row.name: row.cells[metric].value for row in table.rows}


def test_a_baseline_drawn_from_the_same_seeds_as_ours_scores_the_same(table):
    for metric in METRICS:
        assert scores(table, metric)["ours"] == scores(table, metric)["class-gaussian"]


def test_copies_are_at_the_floor_but_for_the_distance_to_training_images(table):
    frechet, copies = scores(table, "frechet-distance"), scores(table, "nearest-neighbour")
    assert frechet["training-copies"] < 1.2 * frechet["training split"]
    # 0.5 is chance; the standard error of 720 tosses is 0.019.
    assert abs(scores(table, "two-sample")["training-copies"] - 0.5) < 3 * 0.019
    assert abs(scores(table, "two-sample")["training split"] - 0.5) < 3 * 0.019
    assert copies["training-copies"] == copies["training split"] == 0
    assert table.verdict(table.columns[2]).beats == ("training-copies", "noisy-copies")


def test_the_gaussian_nearly_passes_all_but_the_two_sample_test(table):
    floors = {column.name: column.floor for column in table.columns}
    assert floors["conditional-accuracy"] > 0.98
    assert scores(table, "conditional-accuracy")["class-gaussian"] > 0.97
    assert 0.9 < scores(table, "nearest-neighbour")["class-gaussian"] / floors["nearest-neighbour"] < 1.2
    assert scores(table, "precision-recall")["class-gaussian"] > 0.9
    assert (
        floors["frechet-distance"]
        < scores(table, "frechet-distance")["class-gaussian"]
        < 3 * floors["frechet-distance"]
    )
    assert 0.75 < scores(table, "two-sample")["class-gaussian"] < 0.95


def test_every_cell_says_what_it_is_computed_from(table):
    for row in table.rows:
        for name, cell in row.cells.items():
            assert cell.n == (360 if name in ("precision-recall", "two-sample") else row.n)
            assert cell.features.startswith("pixels")
