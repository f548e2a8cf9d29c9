"""Overrides change what they name, drop what belongs to another component, and are named in every message."""

from __future__ import annotations

from typing import Any

import pytest

from atlas_core.config.overrides import Applied, apply, parse
from atlas_core.config.pipeline import default_use
from atlas_core.config.source import Place, read_toml

TEXT = """\
sampler = "heun"
[objective]
use = "denoising"
gamma = 3.0
[sampling]
nfe = 20
guidance = { use = "acme:cfg", scale = 2.0 }
[evaluate]
metrics = [{ use = "a", bins = 1 }, { use = "b" }]
[process]
sigma_max = 70
"""


def lay(*texts: str) -> Applied:
    return apply(read_toml(TEXT, "x.toml"), texts, default_use)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=9", 9),
        ("a=1e-3", 1e-3),
        ("a=true", True),
        ("a=True", "True"),
        ("a=heun", "heun"),
        ("a=/data/x", "/data/x"),
        (r"a=C:\data", r"C:\data"),
        ("a=x=y", "x=y"),
        ("a=", ""),
        ("a='9'", "9"),
        ("a=2024-01-01", "2024-01-01"),
        ("a=[]", []),
        ("a=[1, 2]", [1, 2]),
        ('a={ use = "x", b = 1 }', {"use": "x", "b": 1}),
        ("a=1\nb=2", "1\nb=2"),
    ],
)
def test_values_are_toml_where_they_can_be(text: str, value: Any) -> None:
    assert parse(text).value == value
    assert type(parse(text).value) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.steps", "write train.steps=VALUE"),
        ("=5", "no key"),
        ("train..steps=5", "is not a path"),
        (".train=5", "is not a path"),
        ("a=[1, 2", "is not valid TOML"),
    ],
)
def test_what_is_no_override_says_how_to_write_one(text: str, message: str) -> None:
    (problem,) = lay(text).problems
    assert message in problem.message
    assert problem.file == f"override '{text}'"


def test_paths_reach_into_lists_and_quoted_keys() -> None:
    assert parse("evaluate.metrics[0].use=a").path == ("evaluate", "metrics", 0, "use")
    assert parse('a."b.c".d=1').path == ("a", "b.c", "d")
    applied = lay("evaluate.metrics[0].bins=7")
    assert applied.source.tables["evaluate"]["metrics"] == [{"use": "a", "bins": 7}, {"use": "b"}]
    assert applied.source.locate("$.evaluate.metrics[0].bins") == Place("override 'evaluate.metrics[0].bins=7'")
    assert applied.source.locate("$.evaluate.metrics[0].use") == Place("x.toml", 9)


def test_missing_tables_are_made_and_belong_to_the_override() -> None:
    source = lay("train.steps=5").source
    assert source.tables["train"] == {"steps": 5}
    assert source.locate("$.train").file == "override 'train.steps=5'"


def test_a_name_alone_becomes_a_table() -> None:
    assert lay("sampler.churn=1").source.tables["sampler"] == {"use": "heun", "churn": 1}


def test_another_component_drops_the_settings_of_the_old_one_and_says_so() -> None:
    applied = lay("objective.gamma=9", "objective.use=bridge")
    assert applied.source.tables["objective"] == {"use": "bridge", "gamma": 9}
    assert applied.notes == ("$.objective: bridge in place of denoising; dropped its settings gamma",)


@pytest.mark.parametrize("use", ["cfg", "acme:cfg"])
def test_the_same_component_keeps_its_settings(use: str) -> None:
    applied = lay(f"sampling.guidance.use={use}")
    assert applied.source.tables["sampling"]["guidance"] == {"use": use, "scale": 2.0}
    assert applied.notes == ()


def test_the_same_short_name_of_another_provider_is_another_component() -> None:
    assert lay("sampling.guidance.use=other:cfg").source.tables["sampling"]["guidance"] == {"use": "other:cfg"}


def test_a_table_without_use_means_the_default_component() -> None:
    assert lay("process.use=edm").source.tables["process"] == {"use": "edm", "sigma_max": 70}
    assert lay("process.use=vp").source.tables["process"] == {"use": "vp"}
    assert default_use("$.sampling.guidance") == "atlas-solvers-builtin:none"
    assert default_use("$.model") is None


def test_steps_on_the_command_line_replace_nfe_in_the_file() -> None:
    applied = lay("sampling.steps=9")
    assert applied.source.tables["sampling"]["steps"] == 9
    assert "nfe" not in applied.source.tables["sampling"]
    assert applied.notes == ("$.sampling.steps in place of nfe = 20",)


def test_steps_and_nfe_on_the_command_line_are_left_to_contradict_each_other() -> None:
    for texts in (("sampling.steps=9", "sampling.nfe=8"), ("sampling.nfe=8", "sampling.steps=9")):
        assert {"steps": 9, "nfe": 8}.items() <= lay(*texts).source.tables["sampling"].items()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("evaluate.metrics[2].use=c", "$.evaluate.metrics has 2 entries"),
        ("objective[0]=c", "$.objective is no list"),
        ("sampling.nfe.x=1", "$.sampling.nfe is a plain value, not a table"),
        ("evaluate.metrics.use=1", "$.evaluate.metrics is a list, not a table"),
        ("train.list[0]=1", "there is no list at $.train.list"),
    ],
)
def test_a_path_that_runs_into_a_wall_is_a_problem(text: str, message: str) -> None:
    (problem,) = lay(text).problems
    assert message in problem.message
    assert problem.file == f"override '{text}'"


def test_the_file_itself_is_not_changed() -> None:
    source = read_toml(TEXT, "x.toml")
    apply(source, ["objective.use=bridge", "evaluate.metrics[0].bins=2"], default_use)
    assert source == read_toml(TEXT, "x.toml")
