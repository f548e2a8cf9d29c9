"""A config as it was written: its values, and the file and line of each, so that every problem can name its place."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import attrs

from atlas_core.config import places
from atlas_core.errors import ConfigError, Problem

_DEPTH = 50
TOO_DEEP = f"nested more than {_DEPTH} deep: no setting is"


@attrs.frozen
class Place:
    """Where a value was given: a line of a file, or an override on the command line (line 0)."""

    file: str
    line: int = 0


@attrs.frozen
class Source:
    """Values with their places. `name` stands in messages for the file: its path, or `preset 'digits'`."""

    name: str
    tables: dict[str, Any]
    places: Mapping[str, Place] = attrs.field(factory=dict)

    def locate(self, where: str) -> Place:
        """Return the place of `where`, or of the nearest table around it that was written down."""
        while where not in self.places and where != places.ROOT:
            where = places.parent(where)
        return self.places.get(where, Place(self.name))

    def problem(self, message: str, where: str, hint: str = "") -> Problem:
        """Return a problem at `where`, with its file and line."""
        place = self.locate(where)
        return Problem(message, where=where, file=place.file, line=place.line, hint=hint)


def read_file(path: Path) -> Source:
    """Read a .toml or .json config. Raises ConfigError with file and line; the file has to exist."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problem = Problem("not UTF-8 text", file=str(path), line=line, hint="Save the file as UTF-8.")
        raise ConfigError(f"{path} cannot be read", problems=[problem]) from error
    return read_json(text, str(path)) if path.suffix == ".json" else read_toml(text, str(path))


def read_toml(text: str, name: str) -> Source:
    """Parse TOML. Raises ConfigError that names the line of the syntax error."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        found = re.search(r"at line (\d+)", message)
        _refuse(name, f"not valid TOML: {message}", int(found[1]) if found else text.count("\n") + 1, error)
    except RecursionError as error:
        _refuse(name, TOO_DEEP, 0, error)
    return _source(name, tables, places.toml_lines, text)


def read_json(text: str, name: str) -> Source:
    """Parse JSON. Raises ConfigError that names the line of the syntax error, or the key that is given twice."""
    try:
        tables = json.loads(text, object_pairs_hook=_refuse_duplicates)
    except json.JSONDecodeError as error:
        _refuse(
            name, f"not valid JSON: {error.msg} (at line {error.lineno}, column {error.colno})", error.lineno, error
        )
    except RecursionError as error:
        _refuse(name, TOO_DEEP, 0, error)
    except ValueError as error:
        raise ConfigError(f"{name} cannot be read", problems=[Problem(str(error), file=name)]) from error
    if not isinstance(tables, dict):
        raise ConfigError(f"{name} cannot be read", problems=[Problem("a config is a JSON object", file=name)])
    return _source(name, tables, places.json_lines, text)


def too_deep(value: Any) -> bool:
    """True for values that everything which walks a config by recursion would stumble over."""
    level = [value]
    for _ in range(_DEPTH):
        holders = [each for each in level if isinstance(each, (dict, list))]
        level = [inner for each in holders for inner in (each.values() if isinstance(each, dict) else each)]
    return any(isinstance(each, (dict, list)) for each in level)


def _source(name: str, tables: dict[str, Any], lines: Callable[[str], Mapping[str, int]], text: str) -> Source:
    if too_deep(tables):
        raise ConfigError(f"{name} cannot be read", problems=[Problem(TOO_DEEP, file=name)])
    return Source(name, tables, {where: Place(name, line) for where, line in lines(text).items()})


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # JSON keeps the last of two equal keys in silence; TOML refuses them, and so do we.
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is given twice in one object")
    return table


def _refuse(name: str, message: str, line: int, error: Exception) -> NoReturn:
    raise ConfigError(f"{name} cannot be read", problems=[Problem(message, file=name, line=line)]) from error
