"""Every way to get a config wrong gives one clear message a mistake, at its place, all of them at once."""

from __future__ import annotations

from typing import Any

import pytest

from atlas_core.config.document import load_document
from atlas_core.errors import ConfigError, DataError, Problem
from atlas_core.plugins.registry import Registry

GOOD = """\
[data]
use = "scans"

[model]
use = "net"

[conditioner]
use = "label"
"""


@pytest.fixture
def problems(document: Any, registry: Registry) -> Any:
    """Resolve a config and return its problems as (where, line, message, hint)."""

    def of(text: str, *overrides: str) -> list[Problem]:
        with pytest.raises(ConfigError) as caught:
            document(text, *overrides).resolve(registry)
        assert caught.value.exit_code == 2
        return list(caught.value.problems)

    return of


def only(problems: list[Problem], where: str, line: int, message: str, hint: str = "") -> None:
    (problem,) = problems
    assert (problem.where, problem.line) == (where, line)
    assert message in problem.message
    assert hint in problem.hint
    if line:
        assert problem.file.endswith("config.toml")


def test_unknown_key(problems: Any) -> None:
    only(problems(GOOD + "[train]\nbatch = 2\nstps = 5\n"), "$.train.stps", 11, "unknown key", "Did you mean 'steps'?")


def test_unknown_key_of_a_component_says_how_to_list_them(problems: Any) -> None:
    text = GOOD + '[sampler]\nuse = "heun"\nchrn = 1\n'
    only(problems(text), "$.sampler.chrn", 11, "unknown key", "`atlas-core describe sampler/heun`")


def test_unknown_table(problems: Any) -> None:
    only(problems(GOOD + "[modle]\n"), "$.modle", 9, "unknown table", "Did you mean 'model'?")


def test_unknown_component(problems: Any) -> None:
    text = GOOD + '[sampler]\nuse = "adaptve"\n'
    only(problems(text), "$.sampler.use", 10, "no sampler 'adaptve'; did you mean 'adaptive'", "Installed: adaptive, ")


def test_wrong_type(problems: Any) -> None:
    only(problems(GOOD + '[train]\nsteps = "5"\n'), "$.train.steps", 10, 'expected an integer, got the string "5"')


def test_out_of_range(problems: Any) -> None:
    only(problems(GOOD + "[train]\nbeta1 = 1.0\n"), "$.train.beta1", 10, "1.0 is out of range: must be ≥ 0 and < 1")


def test_not_a_number_is_out_of_every_range(problems: Any) -> None:
    only(problems(GOOD + "[train]\nbeta1 = nan\n"), "$.train.beta1", 10, "expected a finite number, got nan")


def test_nested_error(problems: Any) -> None:
    text = GOOD + '[evaluate]\nmetrics = [\n  "score",\n  { use = "score", solver = { use = "sinkhorn", kernel = '
    text += '{ use = "gauss", scale = -1 } } },\n]\n'
    only(problems(text), "$.evaluate.metrics[1].solver.kernel.scale", 12, "-1.0 is out of range: must be > 0")


def test_two_errors_at_once_and_more(problems: Any) -> None:
    text = (
        GOOD
        + '[train]\nsteps = 0\nbatch = "x"\nlog_evry = 1\n[sampler]\nuse = "nope"\n[sampling]\ngrid = { use = 3 }\n'
    )
    found = problems(text, "model.width=-1")
    assert [(problem.where, problem.line) for problem in found] == [
        ("$.model.width", 0),
        ("$.train.steps", 10),
        ("$.train.batch", 11),
        ("$.train.log_evry", 12),
        ("$.sampler.use", 14),
        ("$.sampling.grid.use", 16),
    ]


def test_a_mistake_in_an_override_names_the_override(problems: Any) -> None:
    (problem,) = problems(GOOD, "train.stps=5")
    assert str(problem).startswith("$.train.stps (override 'train.stps=5'): unknown key")


def test_a_mistake_in_a_preset_or_json_has_its_line(tmp_path: Any, registry: Registry) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"data": {"use": "scans"},\n "model": {"use": "net",\n  "width": "wide"}}')
    with pytest.raises(ConfigError) as caught:
        load_document(path, registry=registry).resolve(registry)
    only_json = caught.value.problems[0]
    assert (only_json.where, only_json.file, only_json.line) == ("$.model.width", str(path), 3)


def test_settings_that_do_not_fit_together(problems: Any) -> None:
    text = GOOD.replace('use = "net"', 'use = "net"\nwidth = 33')
    only(problems(text), "$.model", 4, "groups = 8 does not divide width = 33")


def test_missing_tables(problems: Any) -> None:
    found = problems("[train]\nsteps = 5\n")
    assert [problem.where for problem in found] == ["$.data", "$.model"]
    assert "scans" in found[0].hint


def test_missing_use(problems: Any) -> None:
    only(
        problems(GOOD.replace('use = "net"', "width = 32")), "$.model", 4, "`use` is missing", "Installed: blind, net."
    )


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("train = 5\n", "$.train", "expected a table, got 5"),
        ("sampler = 5\n", "$.sampler", "expected a sampler: its name, or a table with `use`; got 5"),
        ("name = 5\n", "$.name", "expected a string, got 5"),
        ('name = "a/b"\n', "$.name", "cannot name a folder"),
        ("evaluate.metrics = 'score'\n", "$.evaluate.metrics", "expected a list of metrics"),
        ("sampling.grid = 'null'\n", "$.sampling.grid", "expected a grid, got null"),
        ("plugins.mode = 'closed'\n", "$.plugins.mode", 'expected "open" or "allowlist"'),
    ],
)
def test_wrong_shapes(problems: Any, text: str, where: str, message: str) -> None:
    only(problems(text + GOOD), where, 1, message)


def test_data_that_cannot_be_read_keeps_its_own_error(document: Any, registry: Registry) -> None:
    with pytest.raises(DataError, match="the folder is empty") as caught:
        document(GOOD, "data.broken=true").resolve(registry)
    assert caught.value.exit_code == 1


def test_data_that_cannot_be_read_hides_no_other_problem(problems: Any) -> None:
    found = problems(GOOD + "[train]\nsteps = 0\n", "data.broken=true")
    assert [(problem.where, problem.message) for problem in found] == [
        ("$.data", "the folder is empty"),
        ("$.train.steps", "0 is out of range: must be ≥ 1"),
    ]


def test_a_broken_plugin_is_named_at_the_place_that_asks_for_it(parts: Any, problems: Any, monkeypatch: Any) -> None:
    monkeypatch.delattr(parts, "Heun")
    only(problems(GOOD, "sampler=heun"), "$.sampler", 0, "acme-parts 1.2.3) fails at import")


def test_an_unresolvable_override_is_listed_with_the_rest(problems: Any) -> None:
    found = problems(GOOD + "[train]\nsteps = 0\n", "sampler.churn")
    assert [problem.file.rpartition("/")[2] for problem in found] == ["override 'sampler.churn'", "config.toml"]
