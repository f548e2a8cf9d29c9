"""One short run of the main job, made once for all tests and all pytest processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from atlas_core.cli import main

SHORT = (
    "train.steps=30",
    "train.checkpoint_every=10",
    "train.sample_every=20",
    "train.validate_every=15",
    "train.log_every=10",
    "evaluate.count=200",
    """evaluate.metrics=[{use="conditional-accuracy"}, {use="two-sample"}]""",
    """evaluate.baselines=[{use="class-gaussian"}]""",
)
"""Overrides that make the preset `digits` short: what is left of it runs through every part of the engine."""


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of a finished short run of `atlas-core run digits`. Look, but change nothing: others read it."""
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "digits-run"
    with FileLock(f"{root}.lock"):
        if not (root / "digits" / "report.html").exists():
            assert main(["run", "digits", *SHORT, "--runs", str(root), "--quiet"]) == 0
    return root / "digits"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call `atlas-core` in this process -> (exit code, standard output, standard error)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call
