"""Values are taken as what they are: nothing is converted but an integer where a number is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
import pytest
from attrs.validators import and_, deep_iterable, ge, gt, in_, instance_of, lt, max_len, min_len, optional

from atlas_core.config.ranges import describe_range, describe_type, type_of
from atlas_core.config.values import convert, plain

Colour = Literal["red", "green"]


@attrs.frozen
class Point:
    x: int
    y: float = 0.0


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (5, int, 5),
        (5, float, 5.0),
        (np.int64(5), int, 5),
        ("x", str, "x"),
        ("x", Path, Path("x")),
        (True, bool, True),
        (None, int | None, None),
        ("null", int | None, None),
        ("null", str, "null"),
        ("red", Colour, "red"),
        ([1, 2], tuple[int, ...], (1, 2)),
        ([1, 2.5], tuple[int, float], (1, 2.5)),
        ([1, 2], list[float], [1.0, 2.0]),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        (3, float | int, 3),
        ([3], float | list[float], [3.0]),
        ({"x": 1}, Point, Point(1)),
        ([{"x": 1, "y": 2}], list[Point], [Point(1, 2.0)]),
        ({"free": [1]}, Any, {"free": [1]}),
    ],
)
def test_legal_values(value: Any, annotation: Any, expected: Any) -> None:
    converted, complaints = convert(value, annotation, "$.a")
    assert complaints == []
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation", "where", "message"),
    [
        ("5", int, "$.a", 'expected an integer, got the string "5"'),
        (5.0, int, "$.a", "expected an integer, got the number 5.0"),
        (True, int, "$.a", "expected an integer, got true"),
        (True, float, "$.a", "expected a number, got true"),
        ("0.5", float, "$.a", 'expected a number, got the string "0.5"'),
        ("false", bool, "$.a", 'expected true or false, got the string "false"'),
        (0, bool, "$.a", "expected true or false, got the integer 0"),
        (5, str, "$.a", "expected a string, got the integer 5"),
        (None, int, "$.a", "expected an integer, got null"),
        ("null", int, "$.a", 'expected an integer, got the string "null"'),
        ("x", int | None, "$.a", 'expected an integer or null, got the string "x"'),
        ("rad", Colour, "$.a", 'expected "red" or "green", got the string "rad"'),
        ("ab", list[str], "$.a", 'expected a list, each a string, got the string "ab"'),
        ([1, "b"], tuple[int, ...], "$.a[1]", 'expected an integer, got the string "b"'),
        ([[1], [True]], list[list[int]], "$.a[1][0]", "expected an integer, got true"),
        ([1, 2], tuple[int, int, int], "$.a", "expected a list of 3: an integer, an integer, an integer"),
        ({"k": "v"}, dict[str, int], "$.a.k", 'expected an integer, got the string "v"'),
        ([1], dict[str, int], "$.a", "expected a table, got the list [1]"),
        ({"x": "1"}, Point, "$.a.x", "expected an integer"),
        ({"x": 1, "z": 2}, Point, "$.a.z", "unknown key"),
        ({"y": 1}, Point, "$.a.x", "missing"),
    ],
)
def test_illegal_values(value: Any, annotation: Any, where: str, message: str) -> None:
    _, (complaint,) = convert(value, annotation, "$.a")
    assert complaint.where == where
    assert complaint.message.startswith(message)


def test_every_wrong_element_is_named() -> None:
    _, complaints = convert([1, "b", True, 4], tuple[int, ...], "$.a")
    assert [complaint.where for complaint in complaints] == ["$.a[1]", "$.a[2]"]


def test_hints_say_how_to_write_it() -> None:
    assert convert(5.0, int, "$")[1][0].hint == "Write 5."
    assert convert(True, str, "$")[1][0].hint == "Quote it: '\"true\"'."
    assert convert("rad", Colour, "$")[1][0].hint == "Did you mean 'red'?"


def test_a_type_that_only_a_checker_sees_takes_objects_and_no_plain_values(parts: Any) -> None:
    annotation = type_of(parts.Sinkhorn, attrs.fields(parts.Sinkhorn).epsilon)
    assert describe_type(annotation) == "a number or Tensor"
    assert convert(1, annotation, "$") == (1.0, [])
    array = np.zeros(3)
    assert convert(array, annotation, "$")[0] is array
    assert convert("much", annotation, "$")[1]


def test_plain_is_what_toml_can_hold() -> None:
    value = {"a": (1, None), "b": Path("x"), "c": None, "d": Point(1), "e": frozenset({"z", "y"})}
    assert plain(value) == {"a": [1, "null"], "b": "x", "d": {"x": 1, "y": 0.0}, "e": ["y", "z"]}


@pytest.mark.parametrize(
    ("validator", "words"),
    [
        (gt(0), "> 0"),
        (ge(1), "≥ 1"),
        (and_(ge(0), lt(1)), "≥ 0 and < 1"),
        (optional(gt(0)), "> 0"),
        (optional([ge(0), lt(1)]), "≥ 0 and < 1"),
        (in_(("a", "b")), 'one of "a", "b"'),
        (in_({2, 1}), "one of 1, 2"),
        (min_len(2), "at least 2 long"),
        (max_len(2), "at most 2 long"),
        (deep_iterable(and_(instance_of(int), ge(1)), min_len(1)), "at least 1 long, each ≥ 1"),
        (instance_of(int), ""),
        (None, ""),
    ],
)
def test_ranges_in_words(validator: Any, words: str) -> None:
    assert describe_range(validator) == words


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "an integer"),
        (int | None, "an integer or null"),
        (Colour, '"red" or "green"'),
        (tuple[int, ...], "a list, each an integer"),
        (dict[str, int], "a table"),
        (Point, "a table"),
        (Any, "any value"),
    ],
)
def test_types_in_words(annotation: Any, words: str) -> None:
    assert describe_type(annotation) == words
