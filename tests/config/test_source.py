"""What cannot be read is refused with its file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from atlas_core.config.document import load_document
from atlas_core.config.facts import Facts
from atlas_core.config.overrides import parse
from atlas_core.config.source import read_file, read_json, read_toml
from atlas_core.errors import ConfigError, Problem
from atlas_core.plugins.registry import Registry


def only_problem(caught: pytest.ExceptionInfo[ConfigError]) -> Problem:
    (problem,) = caught.value.problems
    return problem


def test_toml_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[data]\nuse = digits\n")
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        read_file(path)
    problem = only_problem(caught)
    assert (problem.file, problem.line) == (str(path), 2)
    assert "not valid TOML" in problem.message
    assert caught.value.exit_code == 2


def test_an_unfinished_toml_file_is_refused_at_its_last_line() -> None:
    with pytest.raises(ConfigError) as caught:
        read_toml("a = 1\nb = [1,\n2", "x.toml")
    assert only_problem(caught).line == 3


def test_json_syntax_error_names_file_and_line() -> None:
    with pytest.raises(ConfigError) as caught:
        read_json('{"a": 1,\n "b": }', "x.json")
    assert (only_problem(caught).file, only_problem(caught).line) == ("x.json", 2)


def test_json_with_a_key_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="'a' is given twice"):
        read_json('{"b": {"a": 1, "a": 2}}', "x.json")


def test_json_that_is_no_object_is_refused() -> None:
    with pytest.raises(ConfigError, match="a config is a JSON object"):
        read_json("[1]", "x.json")


def test_text_that_is_not_utf_8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes('a = 1\nname = "é"\n'.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        read_file(path)
    assert (only_problem(caught).message, only_problem(caught).line) == ("not UTF-8 text", 2)


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "windows.toml"
    path.write_bytes("\ufeffa = 1\r\nb = 2\r\n".encode())
    source = read_file(path)
    assert source.tables == {"a": 1, "b": 2}
    assert source.locate("$.b").line == 2


def test_a_value_that_is_not_written_down_is_located_at_the_table_around_it() -> None:
    source = read_toml("[a]\nb = [{c = 1}]\n", "x.toml")
    assert source.locate("$.a.b[0].missing").line == 2
    assert source.locate("$.a.missing.deeper").line == 1
    assert (source.locate("$.missing").file, source.locate("$.missing").line) == ("x.toml", 0)


def test_a_missing_file_names_the_nearest_one_beside_it(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "digits.toml").touch()
    with pytest.raises(ConfigError, match=r"no file .*digts\.toml") as caught:
        load_document(tmp_path / "digts.toml", registry=registry)
    assert caught.value.hint == "Did you mean 'digits.toml'?"
    assert caught.value.exit_code == 2


def test_a_missing_folder_is_named(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(ConfigError) as caught:
        load_document(tmp_path / "nowhere" / "x.toml", registry=registry)
    assert caught.value.hint == f"There is no folder {tmp_path / 'nowhere'}."


def test_a_run_folder_names_the_config_in_it(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "config.toml").touch()
    with pytest.raises(ConfigError, match="is a folder") as caught:
        load_document(f"{tmp_path}/", registry=registry)
    assert caught.value.hint == f"Its config is {tmp_path / 'config.toml'}."


@pytest.mark.parametrize("depth", [60, 100_000])
@pytest.mark.parametrize(("suffix", "before"), [("json", '{"a": '), ("toml", "a = ")])
def test_a_config_that_is_nested_without_end(tmp_path: Path, suffix: str, before: str, depth: int) -> None:
    path = tmp_path / f"config.{suffix}"
    path.write_text(before + "[" * depth + "]" * depth + ("}" if suffix == "json" else ""), encoding="utf-8")
    with pytest.raises(ConfigError, match="nested more than 50 deep"):
        read_file(path)


@pytest.mark.parametrize("depth", [60, 100_000])
def test_an_override_that_is_nested_without_end(depth: int) -> None:
    with pytest.raises(ValueError, match="nested more than 50 deep"):
        parse("data.a=" + "[" * depth + "]" * depth)


def test_facts_that_are_no_tables() -> None:
    for table in ({"data": 3}, {"data": []}, {"condition": 3}, 3):
        with pytest.raises(ConfigError, match=r"\[facts\] cannot be read"):
            Facts.from_table(table)
