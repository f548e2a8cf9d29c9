r"""Paths as Windows writes them, `C:\data\before.csv`: legal names of files elsewhere, so that all can be tried."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atlas_core.config.transport_paths import document_of

BEFORE, AFTER = "C:\\data\\new\\before.csv", "C:\\data\\new\\after.csv"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="there, the drive would be a real one")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate((BEFORE, AFTER)):
        np.savetxt(name, np.random.default_rng(seed).normal(size=(9, 2)), delimiter=",", header="x,y", comments="")


@pytest.mark.usefixtures("files")
def test_a_run_is_named_after_its_files_and_not_after_their_folders() -> None:
    assert document_of(BEFORE, AFTER).name == "before-to-after"
    assert document_of(BEFORE, str(Path(AFTER).absolute())).name == "before-to-after"


@pytest.mark.usefixtures("files")
def test_backslashes_survive_the_config_the_report_and_an_override(cli: Any, tmp_path: Path) -> None:
    code, out, err = cli("transport", BEFORE, AFTER, "evaluate.metrics=[]", "--json")
    assert code == 0, err
    summary = json.loads(out)
    assert (summary["source"]["label"], summary["target"]["label"]) == ("before.csv", "after.csv")
    config = tmp_path / "runs" / "before-to-after" / "config.toml"
    assert tomllib.loads(config.read_text())["source"]["path"] == str(tmp_path / BEFORE)
    # What it wrote runs again, and the file can be named by hand.
    code, out, err = cli("run", config, f"target.path={BEFORE}", "--json")
    assert code == 0, err
    assert json.loads(out)["target"]["label"] == "before.csv"
    assert json.loads(out)["solution"]["cost"] < summary["solution"]["cost"]
