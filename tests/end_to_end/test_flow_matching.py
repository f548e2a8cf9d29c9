"""The flow-matching config of the documents, run from the command line to its scores."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "flow-matching.md"
SHORT = ("train.steps=6", "train.batch=24", "train.log_every=3", "train.validate_every=6", "train.sample_every=0")
FEW = ("evaluate.count=40", "evaluate.baselines=[]")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "flow.toml"
    path.write_text(re.search(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)[1])
    return path


def test_the_config_of_the_documents_runs(config: Path, cli) -> None:
    code, _, err = cli("run", config, *SHORT, *FEW, "--runs", config.parent / "runs", "-q")
    assert code == 0, err
    run = next((config.parent / "runs").iterdir())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    costs = [row["pair_cost"] for row in rows if "pair_cost" in row]
    assert len(costs) == 2
    assert "validation_loss" in rows[-1]
    assert 'use = "atlas-solvers-builtin:flow-matching"' in (run / "config.toml").read_text()
    lock = (run / "lock.json").read_text()
    for part in ("sinkhorn", "squared-euclidean", "flow-matching"):
        assert part in lock
    scores = json.loads((run / "evaluation.json").read_text())
    ours = next(row for row in scores["rows"] if row["kind"] == "ours")
    assert all(cell["value"] is not None for cell in ours["cells"].values())


def test_what_the_objective_refuses_is_said_with_its_place(config: Path, cli) -> None:
    for change, said in (
        ("objective.location=0.5 objective.times=uniform", "location has no effect"),
        ("objective.coupling.epsilon=-1", "epsilon"),
        ("objective.coupling.use=sinkhron", "sinkhorn"),
    ):
        code, _, err = cli("run", config, *change.split(), "--dry-run")
        assert code != 0
        assert said in err
        assert "$.objective" in err
