"""Strict conversion of plain values: `"5"` is no integer, `"false"` no truth value, `true` no number.

cattrs dispatches on the type, walks nested attrs classes and gathers every error with its path; the hooks below take
away its readiness to convert.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import (
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)

from atlas_core.config import places, ranges
from atlas_core.config.nearest import did_you_mean

NULL = "null"
"""TOML has no null: where a setting may be null, this word means it, as in `clip_norm = "null"`."""

_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable)
_TABLES = (dict, collections.abc.Mapping)
_ENDS: dict[Any, Callable[[Iterable[Any]], Any]] = {list: list, set: set, frozenset: frozenset}


@attrs.frozen
class Complaint:
    """A value that does not fit: its path, and why."""

    where: str
    message: str
    hint: str = ""


def convert(value: Any, annotation: Any, where: str, *, finite: bool = True) -> tuple[Any, list[Complaint]]:
    """Return the value as its type, and everything that is wrong with it; the value counts only if nothing is.

    finite: refuse inf and nan as numbers.
    """
    try:
        return _converter(finite).structure(value, annotation), []
    except cattrs.StructureHandlerNotFoundError:
        return value, []  # a type that no table can spell, as a callable
    except (cattrs.BaseValidationError, ForbiddenExtraKeysError, ValueError, TypeError, KeyError) as error:
        return None, list(_complaints(error, where))


def plain(value: Any) -> Any:
    """Return a value in the types of TOML: tuples as lists, paths as strings, attrs classes as tables."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, (set, frozenset)):
        value = sorted(value)
    if isinstance(value, (list, tuple)):
        return [NULL if entry is None else plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    if attrs.has(type(value)):
        return plain(attrs.asdict(value, recurse=False))
    return value


def is_plain(value: Any) -> bool:
    """True for what a TOML or JSON file can hold; False for an object that Python handed over."""
    return value is None or isinstance(value, (bool, int, float, str, list, tuple, Mapping))


class _ConvertError(TypeError):
    """A value that is not of the type of its setting; `hint` says how to write it."""

    def __init__(self, value: Any, wanted: Any, hint: str = "") -> None:
        super().__init__(f"expected {ranges.describe_type(wanted)}, got {_named(value)}")
        self.hint = hint


class _NotFiniteError(ValueError):
    """A number of the right type that no computation can use."""


@cache
def _converter(finite: bool) -> cattrs.Converter:
    # No hook for `object`: it would catch every class of every plugin.
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for primitive, hook in _PRIMITIVES.items():
        converter.register_structure_hook(primitive, hook)
    if finite:
        converter.register_structure_hook(float, _finite)
    converter.register_structure_hook_func(_is_opaque, _opaque)
    converter.register_structure_hook_func(_is_literal, _literal)
    converter.register_structure_hook_func(lambda wanted: _container(wanted) in _LISTS, partial(_list, converter))
    converter.register_structure_hook_func(lambda wanted: _container(wanted) in _TABLES, partial(_table, converter))
    converter.register_structure_hook_func(attrs.has, partial(_record, converter))
    converter.register_structure_hook_func(lambda wanted: len(ranges.members(wanted)) > 1, partial(_union, converter))
    return converter


def _container(wanted: Any) -> Any:
    return get_origin(wanted) or wanted


def _bool(value: Any, wanted: Any) -> bool:
    if not isinstance(value, bool):
        raise _ConvertError(value, wanted)
    return value


def _int(value: Any, wanted: Any) -> int:
    # numbers.Integral lets the integers of numpy through when Python hands them over; bool is one, too.
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        whole = isinstance(value, float) and value.is_integer()
        raise _ConvertError(value, wanted, f"Write {int(value)}." if whole else "")
    return int(value)


def _float(value: Any, wanted: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise _ConvertError(value, wanted)
    return float(value)


def _finite(value: Any, wanted: Any) -> float:
    try:
        number = _float(value, wanted)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if not math.isfinite(number):
        raise _NotFiniteError(f"expected a finite number, got {ranges.shown(value)}")
    return number


def _str(value: Any, wanted: Any) -> str:
    if not isinstance(value, str):
        quotable = isinstance(value, (bool, int, float))
        raise _ConvertError(value, wanted, f"Quote it: '\"{ranges.shown(value)}\"'." if quotable else "")
    return value


def _path(value: Any, wanted: Any) -> Path:
    if not isinstance(value, (str, Path)):
        raise _ConvertError(value, wanted)
    return Path(value)


_PRIMITIVES: dict[Any, Callable[[Any, Any], Any]] = {bool: _bool, int: _int, float: _float, str: _str, Path: _path}


def _is_opaque(wanted: object) -> bool:
    """True for a plugin's own class, which no table can spell: Python hands an instance over."""
    # Any is a class in Python 3.11, of the module typing.
    if not isinstance(wanted, type) or attrs.has(wanted) or dataclasses.is_dataclass(wanted):
        return False
    return wanted.__module__ not in ("builtins", "pathlib", "typing") and not issubclass(
        wanted, (enum.Enum, tuple, dict)
    )


def _opaque(value: Any, wanted: Any) -> Any:
    if issubclass(wanted, ranges.Unseen) or getattr(wanted, "_is_protocol", False):
        fits = not is_plain(value)
    else:
        fits = isinstance(value, wanted)
    if not fits:
        raise _ConvertError(value, wanted)
    return value


def _is_literal(wanted: Any) -> bool:
    origin: object = get_origin(wanted)
    return origin is Literal


def _literal(value: Any, wanted: Any) -> Any:
    options = get_args(wanted)
    for option in options:
        if type(option) is type(value) and option == value:
            return option
    error = _ConvertError(value, wanted)
    if isinstance(value, str):
        error.hint = did_you_mean(value, [option for option in options if isinstance(option, str)])
    raise error


def _union(converter: cattrs.Converter, value: Any, wanted: Any) -> Any:
    options = ranges.members(wanted)
    if type(None) in options and (value is None or value == NULL):
        return None
    failures = []
    # Exact types first, so that 3 stays an integer in `float | int`.
    for option in sorted(options, key=lambda option: type(value) is not option):
        if option is type(None):
            continue
        try:
            return converter.structure(value, option)
        except (cattrs.BaseValidationError, ValueError, TypeError) as error:
            failures.append(error)
    if unusable := [error for error in failures if isinstance(error, _NotFiniteError)]:
        raise unusable[0]
    if len(failures) == 1 and isinstance(failures[0], cattrs.BaseValidationError):
        raise failures[0]  # X | None: what is wrong inside X is worth more than "expected X or null"
    raise _ConvertError(value, wanted)


def _list(converter: cattrs.Converter, value: Any, wanted: Any) -> Any:
    # A string is iterable, but nobody means its letters.
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise _ConvertError(value, wanted)
    entries, arguments = list(value), get_args(wanted)
    fixed = _container(wanted) is tuple and arguments and arguments[-1] is not Ellipsis
    if fixed and len(entries) != len(arguments):
        raise _ConvertError(value, wanted, f"It has {len(entries)} entries, not {len(arguments)}.")
    types = arguments if fixed else [arguments[0] if arguments else Any] * len(entries)
    results = _each(converter, wanted, zip(range(len(entries)), entries, types, strict=True))
    return _ENDS.get(_container(wanted), tuple)(results)


def _table(converter: cattrs.Converter, value: Any, wanted: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _ConvertError(value, wanted)
    of = (get_args(wanted) or (Any, Any))[1]
    results = _each(converter, wanted, ((key, entry, of) for key, entry in value.items()))
    return dict(zip(value, results, strict=True))


def _record(converter: cattrs.Converter, value: Any, wanted: Any) -> Any:
    # By hand, since cattrs asks for every annotation of the class to resolve, those under TYPE_CHECKING too.
    if isinstance(value, wanted):
        return value
    if not isinstance(value, Mapping):
        raise _ConvertError(value, wanted)
    fields = {field.alias: field for field in attrs.fields(wanted) if field.init}
    required = [name for name, field in fields.items() if field.default is attrs.NOTHING]
    errors: list[Exception] = []
    if extra := set(value) - set(fields):
        errors.append(ForbiddenExtraKeysError(None, wanted, extra))
    errors += [KeyError(name) for name in required if name not in value]
    given = [(name, value[name], ranges.type_of(wanted, field)) for name, field in fields.items() if name in value]
    try:
        settings = _each(converter, wanted, given)
    except IterableValidationError as error:
        errors += error.exceptions
    if errors:
        raise IterableValidationError(f"while reading {wanted.__name__}", errors, wanted)
    return wanted(**{name: setting for (name, _, _), setting in zip(given, settings, strict=True)})


def _each(converter: cattrs.Converter, wanted: Any, entries: Iterable[tuple[Any, Any, Any]]) -> list[Any]:
    results, errors = [], []
    for key, value, of in entries:
        try:
            results.append(converter.structure(value, of))
        except (cattrs.BaseValidationError, ValueError, TypeError) as error:
            error.add_note(IterableValidationNote(f"at {key!r}", key, of))
            errors.append(error)
    if errors:
        raise IterableValidationError(f"while reading {ranges.describe_type(wanted)}", errors, wanted)
    return results


def _complaints(error: BaseException, where: str) -> Iterator[Complaint]:
    """Turn cattrs's tree of errors into one complaint a leaf, each with its path."""
    if isinstance(error, cattrs.BaseValidationError):
        for part in error.exceptions:
            yield from _complaints(part, _below(part, where))
    elif isinstance(error, ForbiddenExtraKeysError):
        known = [field.alias for field in attrs.fields(error.cl)] if attrs.has(error.cl) else []
        for key in sorted(error.extra_fields):
            yield Complaint(places.child(where, key), "unknown key", did_you_mean(key, known))
    elif isinstance(error, KeyError):
        yield Complaint(places.child(where, str(error.args[0])), "missing")
    else:
        yield Complaint(where, str(error.args[0] if error.args else error), getattr(error, "hint", ""))


def _below(error: BaseException, where: str) -> str:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, IterableValidationNote):
            return places.child(where, note.index)
    return where


def _named(value: Any) -> str:
    kinds = {bool: "", int: "the integer ", float: "the number ", str: "the string ", type(None): ""}
    for primitive, word in kinds.items():
        if type(value) is primitive:
            return word + ranges.shown(value)
    if isinstance(value, (list, tuple)):
        return f"the list {ranges.shown(value)}"
    return f"the table {ranges.shown(dict(value))}" if isinstance(value, Mapping) else f"a {type(value).__name__}"
