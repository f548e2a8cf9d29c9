"""A grid fitted to a run's own network: kept with its checkpoint, and used by whatever samples it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import atlas_core
from atlas_core.errors import CheckpointError, UsageError
from atlas_core.fitted_grids import fit_grids

Cli = Callable[..., tuple[int, str, str]]
QUICK = {"use": "fitted", "samples": 24, "rounds": 2, "teacher": 40}


@pytest.fixture
def run(digits_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_run, tmp_path / "digits"))


def test_a_fitted_grid_is_used_for_its_sampler_its_guidance_and_its_steps(run: Path) -> None:
    before = atlas_core.load(run)
    usual = before.times(steps=4)
    (row,) = fit_grids(before, [4], grid=QUICK)
    assert row.after < row.before
    opened = atlas_core.load(run)
    assert opened.plan.grid.id.endswith(":fitted")
    times = opened.times(steps=4)
    assert not torch.allclose(times, usual)
    assert torch.equal(opened.times(steps=5), before.times(steps=5))
    for overrides in (
        ["sampler.use=euler"],
        ["sampling.guidance={use='cfg', scale=2.0}"],
        ["sampling.grid.use=logistic-log-snr"],
    ):
        assert torch.equal(atlas_core.load(run, overrides).times(steps=4), usual)
    assert torch.equal(opened.varied(["sampler.use=euler"]).times(steps=4), usual)
    assert torch.equal(opened.varied(["sampling.seed=3"]).times(steps=4), times)


def test_what_it_says_it_gained_is_what_samples_gain(run: Path) -> None:
    pipeline = atlas_core.load(run)
    fit_grids(pipeline, [4], grid={**QUICK, "samples": 64})
    labels = [i % 10 for i in range(100)]
    fine = pipeline.draw(range(100), labels, steps=150)

    def error(overrides: list[str]) -> float:
        x = atlas_core.load(run, overrides).draw(range(100), labels, steps=4)
        return float((x - fine).square().mean().sqrt())

    assert error([]) < 0.97 * error(["sampling.grid.use=logistic-log-snr"])


def test_the_command_keeps_each_fit_and_sample_names_the_grid(run: Path, cli: Cli) -> None:
    code, out, err = cli("fit-grid", run, "--steps", "3,4", "--seconds", "2")
    assert code == 0, err
    assert "before" in out
    assert "3 steps: error" in err
    code, out, _ = cli("sample", run, "-n", "2", "--steps", "3", "--quiet", "--json")
    assert code == 0
    manifest = json.loads((Path(json.loads(out)["folder"]) / "manifest.json").read_text())
    assert manifest["grid"]["use"] == "atlas-solvers-builtin:fitted"
    assert [len(row) for row in manifest["grid"]["levels"]] == [3, 4]


def test_what_cannot_be_fitted_is_said(run: Path, cli: Cli) -> None:
    with pytest.raises(UsageError, match="cannot be fitted"):
        fit_grids(atlas_core.load(run), [4], grid="karras")
    code, _, err = cli("fit-grid", run, "sampler.use=ddpm-ancestral")
    assert code == 2
    assert "draws noise" in err
    assert cli("fit-grid", run, "--steps", "0")[0] == 2
    assert not list(run.glob("checkpoints/*/grids.json"))


def test_a_broken_file_is_named(run: Path) -> None:
    path = sorted((run / "checkpoints").iterdir())[-1] / "grids.json"
    path.write_text("{")
    with pytest.raises(CheckpointError, match=r"grids\.json cannot be read"):
        atlas_core.load(run)


def test_a_fit_of_another_network_is_refused(run: Path) -> None:
    fit_grids(atlas_core.load(run), [3], grid=QUICK)
    checkpoints = sorted((run / "checkpoints").iterdir())
    shutil.copy(checkpoints[-1] / "grids.json", checkpoints[0] / "grids.json")
    with pytest.raises(CheckpointError, match="fitted to another network"):
        atlas_core.load(checkpoints[0])
