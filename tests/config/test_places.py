"""Every key and element of a config is found on its line, whatever the layout of the text."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from atlas_core.config.places import child, json_lines, parent, toml_lines

TOML = """\
# a comment with [brackets] and "quotes
name = "x"  # and one here

[data]
use = 'd'
a.b = [1, [2,
  {x = 1, "q.r" = 2}], \"\"\"
[not.a.table]
s\\\"\"\"\"\"\" , 4]

[[m]]
u = 1979-05-27 07:32:00
[m.z]
k = '''
a = 1'''
[[m]]
[[m.n]]
[m."a b".c]
"""


def test_toml_lines() -> None:
    assert toml_lines(TOML) == {
        "$.name": 2,
        "$.data": 4,
        "$.data.use": 5,
        "$.data.a": 6,
        "$.data.a.b": 6,
        "$.data.a.b[0]": 6,
        "$.data.a.b[1]": 6,
        "$.data.a.b[1][0]": 6,
        "$.data.a.b[1][1]": 7,
        "$.data.a.b[1][1].x": 7,
        '$.data.a.b[1][1]."q.r"': 7,
        "$.data.a.b[2]": 7,
        "$.data.a.b[3]": 9,
        "$.m": 11,
        "$.m[0]": 11,
        "$.m[0].u": 12,
        "$.m[0].z": 13,
        "$.m[0].z.k": 14,
        "$.m[1]": 16,
        "$.m[1].n": 17,
        "$.m[1].n[0]": 17,
        '$.m[1]."a b"': 18,
        '$.m[1]."a b".c': 18,
    }
    assert set(paths(tomllib.loads(TOML))) == set(toml_lines(TOML))


def test_json_lines() -> None:
    text = '{"a":\n [1,\n {"b": "x\\"]", "c\\u00e9": null}],\n "d": -1e3}'
    assert json_lines(text) == {"$.a": 1, "$.a[0]": 2, "$.a[1]": 3, "$.a[1].b": 3, '$.a[1]."cé"': 3, "$.d": 4}


@pytest.mark.parametrize(
    ("where", "above"),
    [("$", "$"), ("$.a", "$"), ("$.a.b-c", "$.a"), ("$.a[12]", "$.a"), ('$.a."b.c[0]"', "$.a"), ('$.a."b\\"."', "$.a")],
)
def test_parent(where: str, above: str) -> None:
    assert parent(where) == above


keys = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=6)
scalars = st.one_of(
    st.integers(-99, 99), st.booleans(), st.floats(allow_nan=False), st.text(st.characters(exclude_categories=["C"]))
)
tables = st.dictionaries(
    keys,
    st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)),
    max_size=5,
)


@given(tables)
def test_every_path_of_any_toml_is_found_where_its_value_stands(table: dict[str, Any]) -> None:
    table = numbered(table, iter(range(10**6, 2 * 10**6)))
    text = tomlkit.dumps(table)
    check(tomllib.loads(text), toml_lines(text), text)


@given(tables, st.sampled_from([None, 1]))
def test_every_path_of_any_json_is_found_where_its_value_stands(table: dict[str, Any], indent: int | None) -> None:
    text = json.dumps(numbered(table, iter(range(10**6, 2 * 10**6))), indent=indent)
    check(json.loads(text), json_lines(text), text)


def numbered(value: Any, numbers: Iterator[int]) -> Any:
    """Put a number that occurs once beside every value: where it stands is then known without our code."""
    if isinstance(value, dict):
        return {key: numbered(entry, numbers) for key, entry in value.items()} | {"n": next(numbers)}
    if isinstance(value, list):
        return [numbered(entry, numbers) for entry in value] + [next(numbers)]
    return value


def check(value: Any, lines: dict[str, int], text: str) -> None:
    found = dict(paths_and_values(value))
    assert set(found) == set(lines)
    rows = text.split("\n")
    for where, leaf in found.items():
        if isinstance(leaf, int) and leaf >= 10**6:
            assert str(leaf) in rows[lines[where] - 1], where


def paths(value: Any) -> Iterator[str]:
    return (where for where, _ in paths_and_values(value))


def paths_and_values(value: Any, where: str = "$") -> Iterator[tuple[str, Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield child(where, key), entry
        yield from paths_and_values(entry, child(where, key))
