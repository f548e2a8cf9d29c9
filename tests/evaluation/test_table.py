"""The table of scores: contenders alike, floors, names, errors in their cells; on stubs of known score."""

from __future__ import annotations

import json
import re

import attrs
import pytest
import torch

from atlas_core.contracts import Batch, DataSpec, Example, MetricResult
from atlas_core.engine.evaluation import evaluate
from atlas_core.engine.scores import Cell, Column, Evaluation, Row, gap, words


@attrs.define
class MeanOf:
    """The mean of the generated values; `least` samples are needed."""

    better = "lower"
    least: int = 1
    own_floor: float | None = None
    x: torch.Tensor = attrs.field(init=False, factory=lambda: torch.zeros(0))
    fitted: list = attrs.field(init=False, factory=list)

    def fit(self, train, spec):
        self.fitted.append(float(train.x.max()))

    def update(self, generated=None, real=None, *, index=None):
        if generated is not None:
            self.x = torch.cat([self.x, generated.x.flatten()])

    def state(self):
        return {"x": self.x}

    def load_state(self, state):
        self.x = state["x"]

    def merge(self, other):
        self.x = torch.cat([self.x, other["x"]])

    def compute(self):
        if len(self.x) < self.least:
            raise ValueError(f"needs {self.least} samples")
        return MetricResult(float(self.x.mean()), len(self.x), "pixels", floor=self.own_floor)


@attrs.define
class Constant:
    """Draws a constant, and remembers what it was asked."""

    value: float = 3.0
    asked: list = attrs.field(init=False, factory=list)

    def fit(self, train, spec):
        self.asked.append(len(train.x))

    def sample(self, labels, noise):
        self.asked.append((None if labels is None else labels.tolist(), noise.rows))
        return torch.full((noise.rows, 1), self.value)


class Tiny:
    """Points in [0, 1]: the training split is 0.5 throughout, the test split 0.4."""

    splits = ("train", "test", "none")

    def __init__(self, classes=("a", "b", "c"), value_range=(0.0, 1.0)):
        self.spec = DataSpec((1,), value_range, classes)

    def split(self, name):
        if name not in self.splits:
            raise ValueError(f"no split {name!r}; there are {', '.join(self.splits)}")
        size, value = {"train": (6, 0.5), "test": (4, 0.4), "none": (0, 0.0)}[name]
        return [Example(torch.tensor([value]), i % 3 if self.spec.classes else None, i) for i in range(size)]


def half(labels, seeds):
    return torch.full((len(seeds), 1), 0.25)


def test_every_contender_is_clamped_labelled_and_scored_from_a_fresh_state():
    asked = []
    baseline = Constant()

    def draw(labels, seeds):
        asked.append((labels, list(seeds)))
        return torch.full((7, 1), -2.0)

    table = evaluate(draw, Tiny(), [MeanOf()], [baseline], count=7, seed=40)
    assert asked == [([0, 1, 2, 0, 1, 2, 0], list(range(40, 47)))]
    assert baseline.asked == [6, ([0, 1, 2, 0, 1, 2, 0], 7)]
    got = [(row.name, row.kind, row.n, row.cells["mean-of"].value, row.cells["mean-of"].n) for row in table.rows]
    assert got == [
        ("ours", "ours", 7, 0.0, 7),
        ("training split", "floor", 6, 0.5, 6),
        ("constant", "baseline", 7, 1.0, 7),
    ]
    assert table.columns[0].floor == 0.5
    assert (table.train, table.held_out, table.count, table.seed) == (6, 4, 7, 40)
    assert "clamped to [0, 1]" in table.table()
    assert "2 or 3 samples for each of 3" in table.table()


def test_points_without_classes_or_range_are_neither_labelled_nor_clamped():
    baseline = Constant(5.0)
    table = evaluate(half, Tiny(classes=(), value_range=None), [MeanOf()], [baseline], count=2)
    assert baseline.asked[-1] == (None, 2)
    assert [row.cells["mean-of"].value for row in table.rows] == [0.25, 0.5, 5.0]
    assert "clamped" not in table.table()


def test_a_metrics_own_reference_is_its_floor():
    assert evaluate(half, Tiny(), [MeanOf(own_floor=0.125)], count=2).columns[0].floor == 0.125


def test_what_cannot_be_scored_says_why_in_its_cell_and_nothing_else_is_lost():
    table = evaluate(half, Tiny(), {"few": MeanOf(least=5), "mean": MeanOf()}, count=2)
    ours, floor = table.rows[0].cells, table.rows[1].cells
    assert (ours["few"].value, ours["few"].error) == (None, "needs 5 samples")
    assert (ours["mean"].value, floor["few"].value) == (0.25, 0.5)
    assert "few has no score: needs 5 samples" in table.table()
    broken = evaluate(lambda labels, seeds: torch.full((4, 1), float("nan")), Tiny(), [MeanOf()], count=4)
    assert broken.rows[0].cells["mean-of"].error == "4 of 4 samples are not finite"


@attrs.define
class Crashing(MeanOf):
    """Raises what no contract foresees, at a stage of its life."""

    stage: str = "compute"
    error: type[BaseException] = RuntimeError

    def fit(self, train, spec):
        self._at("fit")

    def compute(self):
        self._at("compute")
        return super().compute()

    def sample(self, labels, noise):
        self._at("sample")
        return torch.zeros(noise.rows + (self.stage == "count"), 2 if self.stage == "shape" else 1)

    def _at(self, stage):
        if stage == self.stage:
            raise self.error("singular matrix")


@pytest.mark.parametrize("stage", ["fit", "compute"])
def test_a_metric_that_crashes_loses_its_cells_alone(stage):
    table = evaluate(half, Tiny(), {"bad": Crashing(stage=stage), "mean": MeanOf()}, count=2)
    assert [row.cells["bad"].error for row in table.rows] == ["RuntimeError: singular matrix"] * 2
    assert [row.cells["mean"].value for row in table.rows] == [0.25, 0.5]
    named = table.named(["acme:bad 1.2", "house:mean 2.0"], [])
    assert named.failures == ("metric acme:bad 1.2 failed: RuntimeError: singular matrix",)
    assert "acme:bad 1.2" in named.table()
    assert Evaluation.from_json(json.loads(json.dumps(named.to_json()))) == named


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("fit", "RuntimeError: singular matrix"),
        ("sample", "RuntimeError: singular matrix"),
        ("count", "ValueError: bad returned 3 samples; 2 were asked for"),
        ("shape", "ValueError: samples of shape (2,) cannot be compared with data of shape (1,)"),
    ],
)
def test_a_baseline_that_crashes_loses_its_row_alone(stage, said):
    table = evaluate(half, Tiny(), [MeanOf()], {"bad": Crashing(stage=stage), "good": Constant()}, count=2)
    assert [(row.name, row.error, row.cells["mean-of"].value) for row in table.rows[2:]] == [
        ("bad", said, None),
        ("good", "", 1.0),
    ]
    named = table.named(["house:mean 2.0"], ["acme:bad 1.2", "house:good 2.0"])
    assert named.failures == (f"baseline acme:bad 1.2 failed: {said}",)
    assert f"baseline acme:bad 1.2 failed: {said}" in " ".join(named.table().split())


def test_what_a_metric_says_of_the_data_is_no_failure_of_it():
    assert not evaluate(half, Tiny(), [MeanOf(least=5)], count=2).failures


@pytest.mark.parametrize("stage", ["fit", "compute"])
def test_a_user_who_stops_is_obeyed(stage):
    with pytest.raises(KeyboardInterrupt):
        evaluate(half, Tiny(), [Crashing(stage=stage, error=KeyboardInterrupt)], count=2)


def test_a_model_that_cannot_be_told_a_label_is_not_judged_by_one():
    seen = []

    @attrs.define
    class Labels(MeanOf):
        def update(self, generated=None, real=None, *, index=None):
            seen.append((generated or real).condition)
            MeanOf.update(self, generated, real)

    asked = []
    table = evaluate(
        lambda labels, seeds: asked.append(labels) or half(labels, seeds),
        Tiny(),
        [Labels()],
        [Constant()],
        count=3,
        labelled=False,
    )
    assert asked == [None]
    assert seen[1] is None
    assert all(each is not None for each in (seen[0], *seen[2:]))
    assert "The model takes no labels" in table.table()
    assert "balanced" not in table.notes[0]


def test_the_text_fits_a_terminal_of_100_columns_and_keeps_n():
    names = [
        "ours",
        "training split",
        "training-copies",
        "noisy-copies (0.1)",
        "class-gaussian",
        "another-baseline",
        "one-more-baseline",
        "and-one-more",
    ]
    metrics = [
        "conditional-accuracy",
        "frechet-distance (classifier)",
        "a-metric-of-a-rather-long-name (classifier, 5)",
    ]
    columns = tuple(Column(name, "lower", 0.45) for name in metrics)
    rows = tuple(
        Row(
            name,
            "ours" if name == "ours" else "baseline",
            1437,
            1.0,
            {metric: Cell(-0.00012345, 360 if metric == metrics[0] else 1437) for metric in metrics},
        )
        for name in names
    )
    text = Evaluation(rows, columns, 1437, "test", 9, 9, 0, 0.0, ("A note. " * 30,)).table()
    assert max(map(len, text.splitlines())) <= 100
    words_of = " ".join(text.split())
    for word in ("(n 360)", "1437", "-0.0001234", "0.45", "lower is better", "real"):
        assert word in words_of, word
    assert words_of.count("(n 360)") == len(names)
    for name in (*metrics, *names):
        assert re.split(r"[\s-]", name)[0] in words_of, name


def test_names_follow_the_class_and_what_sets_two_of_it_apart():
    table = evaluate(half, Tiny(), [MeanOf(), MeanOf(least=2), MeanOf(least=2)], count=3)
    assert [column.name for column in table.columns] == ["mean-of (1)", "mean-of (2)", "mean-of (2) #3"]
    assert table.columns[1].config == {"least": 2, "own_floor": None}
    assert table.columns[0].summary.startswith("The mean of the generated values")


def test_bad_draws_and_splits_are_refused():
    with pytest.raises(ValueError, match="returned 3 samples; 5"):
        evaluate(lambda labels, seeds: torch.zeros(3, 1), Tiny(), [MeanOf()], count=5)
    with pytest.raises(ValueError, match=r"shape \(2,\) cannot be compared with data of shape \(1,\)"):
        evaluate(lambda labels, seeds: torch.zeros(5, 2), Tiny(), [MeanOf()], count=5)
    with pytest.raises(ValueError, match="there are train, test"):
        evaluate(half, Tiny(), [MeanOf()], split="tset")
    with pytest.raises(ValueError, match="'none' is empty"):
        evaluate(half, Tiny(), [MeanOf()], split="none")


def test_json_round_trip():
    table = evaluate(half, Tiny(), [MeanOf(), MeanOf(least=9)], [Constant()], count=3)
    assert Evaluation.from_json(json.loads(json.dumps(table.to_json()))) == table
    with pytest.raises(ValueError, match="schema 2"):
        Evaluation.from_json({"schema": 2})


@pytest.mark.parametrize(
    ("better", "floor", "value", "expected", "said"),
    [
        ("lower", 2.0, 2.2, 0.1, "10 % above real data"),
        ("lower", 2.0, 1.0, 0.0, "as good as real data"),
        ("lower", 1.0, 7.25, 6.25, "7.25 times that of real data"),
        ("higher", 0.8, 0.6, 0.25, "25 % below real data"),
        ("higher", 0.8, 0.9, 0.0, "as good as real data"),
        ("match", 2.0, 1.5, 0.25, "25 % below real data"),
        ("match", 2.0, 2.5, 0.25, "25 % above real data"),
        ("match", 2.0, 0.0, 1.0, "100 % below real data"),
        ("lower", 0.0, 1.0, float("inf"), "1 where real data have 0"),
        ("lower", -0.001, 0.002, 3.0, "0.002 where real data have -0.001"),
        ("lower", -0.001, -0.002, 0.0, "as good as real data"),
    ],
)
def test_the_gap_counts_only_the_bad_direction(better, floor, value, expected, said):
    column = Column("m", better, floor)
    assert gap(column, value) == pytest.approx(expected)
    assert words(column, value) == said


def test_a_verdict_names_the_baselines_that_are_further_from_real_data():
    def row(kind, name, value):
        return Row(name, kind, 9, 0.0, {"m": Cell(value, 9, "pixels")})

    rows = (
        row("ours", "ours", 2.15),
        row("baseline", "near", 2.1),
        row("baseline", "off", 3.0),
        row("baseline", "no", None),
    )
    table = Evaluation(rows, (Column("m", "match", 2.0),), 9, "test", 9, 9, 0, 0.0)
    verdict = table.verdict(table.columns[0])
    assert (verdict.level, verdict.beats) == ("close", ("off",))
    without = attrs.evolve(table, columns=(Column("m", "match", None),))
    assert without.verdict(without.columns[0]).level == "none"


def test_the_metric_sees_the_training_split_once_before_anything_else():
    metric = MeanOf()
    evaluate(half, Tiny(), [metric], [Constant()], count=3)
    assert metric.fitted == [0.5]


def test_batches_keep_index_and_labels():
    seen = []

    class Looking(MeanOf):
        def update(self, generated=None, real=None, *, index=None):
            seen.append((generated, real))
            super().update(generated, real)

    evaluate(half, Tiny(), [Looking()], count=4)
    (_, real), (ours, _), (train, _) = seen
    assert isinstance(ours, Batch)
    assert (ours.condition.tolist(), ours.index.tolist()) == ([0, 1, 2, 0], [0, 1, 2, 3])
    assert (real.condition.tolist(), real.index.tolist(), len(train.x)) == ([0, 1, 2, 0], [0, 1, 2, 3], 6)
