"""metrics.jsonl stays valid JSON in which no step appears twice."""

from __future__ import annotations

import json

from atlas_core.runs.journal import Journal


def test_lines_after_the_checkpoint_and_a_line_cut_short_are_dropped(tmp_path):
    journal = Journal(tmp_path / "metrics.jsonl")
    for step in (10, 20, 30):
        journal.append(step, {"loss": step / 10})
    with journal.path.open("a") as file:
        file.write('{"step": 40, "lo')
    journal.rewind(20)
    journal.append(30, {"loss": 9.0})
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert lines == [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 2.0}, {"step": 30, "loss": 9.0}]
    assert journal.rows() == lines


def test_what_is_no_number_is_null(tmp_path):
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.append(1, {"loss": float("nan"), "norm": float("inf"), "split": "test"})
    assert json.loads(journal.path.read_text(), parse_constant=lambda name: 1 / 0) == {
        "step": 1,
        "loss": None,
        "norm": None,
        "split": "test",
    }


def test_a_run_without_a_journal_has_no_rows(tmp_path):
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.rewind(3)
    journal.sync()
    assert journal.rows() == []
