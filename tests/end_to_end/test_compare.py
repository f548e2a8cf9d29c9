"""Samplers compared on one network: the numbers against what drawing by hand gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import atlas_core
from atlas_core.comparing import compare, comparisons_in
from atlas_core.engine.comparison import Comparison
from atlas_core.errors import ConfigError, UsageError

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(digits_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_run, tmp_path / "digits"))


def test_the_error_is_the_distance_from_the_fine_solution_of_the_same_seeds(run: Path) -> None:
    pipeline = atlas_core.load(run, ["evaluate.metrics=[]"])
    found = compare(pipeline, ["euler", "heun@karras"], [5, 30], count=20, reference_nfe=30)
    labels = [i % 10 for i in range(20)]
    fine = pipeline.draw(range(20), labels, nfe=30)
    for name, overrides in {
        "euler": ["sampler.use=euler"],
        "heun@karras": ["sampler.use=heun", "sampling.grid.use=karras"],
    }.items():
        drawn = atlas_core.load(run, overrides).draw(range(20), labels, nfe=5)
        expected = float((drawn - fine).double().square().mean().sqrt())
        assert found.value("error", name, 5) == pytest.approx(expected, rel=1e-6)
    assert found.reference == "multistep at 30 NFE"
    assert found.best("error", 5) == "euler"
    nfe = {(entry.contender, entry.asked): entry.nfe for entry in found.entries}
    assert nfe["euler", 30] == 30
    assert nfe["heun@karras", 30] == 30


def test_a_score_is_the_metric_of_the_same_samples(run: Path) -> None:
    pipeline = atlas_core.load(run, ['evaluate.metrics=[{use="frechet-distance"}]', "evaluate.count=40"])
    found = compare(pipeline, ["multistep"], [20], count=40)
    expected = pipeline.evaluate().rows[0].cells["frechet-distance"].value
    assert found.value(found.columns[0].name, "multistep", 20) == pytest.approx(expected, rel=1e-6)
    assert found.columns[0].floor is not None


def test_a_stochastic_sampler_has_scores_but_no_error(run: Path) -> None:
    found = compare(
        atlas_core.load(run, ['evaluate.metrics=[{use="sliced-wasserstein"}]']), ["ddpm-ancestral"], [4], count=20
    )
    assert found.entries[0].error is None
    assert found.value("sliced-wasserstein", "ddpm-ancestral", 4) is not None


def test_a_budget_below_one_step_leaves_its_reason(run: Path) -> None:
    found = compare(atlas_core.load(run, ["evaluate.metrics=[]"]), ["multistep"], [1, 2], count=4)
    assert not any(entry.problem for entry in found.entries)
    with pytest.raises(UsageError, match="no sampler"):
        compare(atlas_core.load(run), [], [5])


def test_all_unknown_names_are_refused_at_once(run: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        compare(atlas_core.load(run), ["heum", "euler@karas", "euler"], [5])
    assert "heun" in str(caught.value)
    assert "karras" in str(caught.value)
    assert not list(comparisons_in(run))


def test_the_command_leaves_table_pictures_and_a_section_of_the_report(run: Path, cli: Cli) -> None:
    words = ["--samplers", "euler,dpmpp-2m", "--nfe", "3,6", "-n", "20", "--reference", "40", "--quiet"]
    code, out, err = cli("compare", run, 'evaluate.metrics=[{use="sliced-wasserstein"}]', *words)
    assert code == 0, err
    assert "NFE at most" in out
    assert "sliced-wasserstein" in out
    folder = run / "comparisons" / "1"
    found = Comparison.from_json(json.loads((folder / "comparison.json").read_text()))
    assert Comparison.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert all((folder / entry.picture).stat().st_size for entry in found.entries)
    page = (run / "report.html").read_text()
    assert "Samplers compared" in page
    assert page.count("data:image/png") > 6
    code, out, _ = cli("compare", run, "evaluate.metrics=[]", *words, "--json")
    assert code == 0
    assert json.loads(out)["folder"] == str(run / "comparisons" / "2")


@pytest.mark.parametrize("nfe", ["5,ten", "0", ""])
def test_a_budget_that_is_none_is_refused_before_anything_is_drawn(run: Path, cli: Cli, nfe: str) -> None:
    code, _, err = cli("compare", run, "--samplers", "euler", "--nfe", nfe)
    assert code == 2
    assert "whole numbers" in err
    assert not (run / "comparisons").exists()


def test_a_broken_comparison_is_said_on_the_page(run: Path, cli: Cli) -> None:
    folder = run / "comparisons" / "1"
    folder.mkdir(parents=True)
    (folder / "comparison.json").write_text("{}")
    assert cli("report", run)[0] == 0
    assert "cannot be read" in (run / "report.html").read_text()


def test_a_variant_shares_the_network_and_leaves_the_pipeline_alone(run: Path) -> None:
    pipeline = atlas_core.load(run)
    before = pipeline.sample(2, seed=5, nfe=6)
    other = pipeline.varied(["sampler.use=euler"])
    assert other.network is pipeline.network
    assert not torch.equal(other.sample(2, seed=5, nfe=6), before)
    assert torch.equal(pipeline.sample(2, seed=5, nfe=6), before)


def test_what_has_no_number_to_compare_is_refused_before_anything_is_drawn(run: Path) -> None:
    pipeline = atlas_core.load(run, ["evaluate.metrics=[]"])
    with pytest.raises(ConfigError, match="chooses its own steps"):
        compare(pipeline, ["dpm-adaptive"], [5])
    with pytest.raises(UsageError, match="nothing to compare"):
        compare(pipeline, ["ddpm-ancestral"], [3], count=2)
