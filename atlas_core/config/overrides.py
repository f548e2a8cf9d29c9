"""Settings from the command line, as in `sampler.use=heun train.steps=500`, laid over those of a file or a preset."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from atlas_core.config import places
from atlas_core.config.source import TOO_DEEP, Place, Source, too_deep
from atlas_core.errors import Problem

_STEP = re.compile(r'\.?([A-Za-z0-9_-]+)|\.?"((?:[^"\\]|\\.)*)"|\[(\d+)\]')
RIVALS = {"$.sampling.steps": "nfe", "$.sampling.nfe": "steps"}
"""Settings of which only one may be given; an override of one takes the place of the other in the file."""
_LOOKS_LIKE_TOML = ("[", "{", '"', "'")


@attrs.frozen
class Override:
    """One setting from the command line."""

    text: str
    path: tuple[str | int, ...]
    value: Any

    @property
    def name(self) -> str:
        """What stands for the file in a message."""
        return f"override '{self.text}'"

    @property
    def where(self) -> str:
        where = places.ROOT
        for step in self.path:
            where = places.child(where, step)
        return where


@attrs.frozen
class Applied:
    """A source with overrides laid over it; `notes` say what that has dropped."""

    source: Source
    notes: tuple[str, ...]
    problems: tuple[Problem, ...]


def parse(text: str) -> Override:
    """Read `KEY=VALUE`: the value is TOML where it can be, else a string. Raises ValueError, with the next step."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"no value; write {text}=VALUE")
    return Override(text, _path(key.strip()), _value(value.strip()))


def apply(source: Source, texts: Sequence[str], default_use: Callable[[str], str | None]) -> Applied:
    """Lay overrides over a source, `….use` first: the other settings belong to what it names; else in order.

    default_use: name of the component that a table without `use` stands for, by path.
    """
    problems: list[Problem] = []
    overrides: list[Override] = []
    for text in texts:
        try:
            overrides.append(parse(text))
        except ValueError as error:
            problems.append(Problem(str(error), file=f"override '{text}'"))
    layer = _Layer(copy.deepcopy(source.tables), dict(source.places), default_use)
    for override in sorted(overrides, key=lambda override: (override.path[-1] != "use", len(override.path))):
        try:
            layer.set(override)
        except ValueError as error:
            problems.append(Problem(str(error), where=override.where, file=override.name))
    return Applied(Source(source.name, layer.tables, layer.places), tuple(layer.notes), tuple(problems))


class _Layer:
    """The tables that overrides change, with the place of every value."""

    def __init__(
        self, tables: dict[str, Any], known_places: dict[str, Place], default_use: Callable[[str], str | None]
    ) -> None:
        self.tables = tables
        self.places = known_places
        self.default_use = default_use
        self.notes: list[str] = []

    def set(self, override: Override) -> None:
        """Set one value. Raises ValueError where the path runs into a plain value."""
        holder: Any = self.tables
        where = places.ROOT
        for step, following in zip(override.path, override.path[1:], strict=False):
            where = places.child(where, step)
            holder = self._enter(holder, step, following, where, override)
        last = override.path[-1]
        _check_step(holder, last, where)
        if last == "use" and isinstance(holder, dict):
            self._drop_other_settings(holder, override.value, where)
        self._forget(override.where)
        self.places[override.where] = Place(override.name)
        holder[last] = override.value
        self._drop_rival(holder, override, where)

    def _drop_rival(self, table: Any, override: Override, where: str) -> None:
        rival = RIVALS.get(override.where, "")
        place = self.places.get(places.child(where, rival))
        if rival in table and (place is None or place.line):  # one from the command line, too, is a contradiction
            self.notes.append(f"{override.where} in place of {rival} = {table.pop(rival)}")
            self._forget(places.child(where, rival))

    def _enter(self, holder: Any, step: str | int, following: str | int, where: str, override: Override) -> Any:
        _check_step(holder, step, places.parent(where))
        if isinstance(holder, dict) and step not in holder:
            if isinstance(following, int):
                raise ValueError(f"there is no list at {where} to change an entry of")
            holder[step] = {}
            self.places[where] = Place(override.name)
        elif isinstance(holder[step], str) and isinstance(following, str):
            holder[step] = {"use": holder[step]}  # `sampler = "heun"` is short for `sampler = {use = "heun"}`
        return holder[step]

    def _drop_other_settings(self, table: dict[str, Any], use: Any, where: str) -> None:
        before = table.get("use", self.default_use(where))
        dropped = [key for key in table if key != "use"]
        if not dropped or _same_component(before, use):
            return
        for key in dropped:
            del table[key]
            self._forget(places.child(where, key))
        self.notes.append(f"{where}: {use} in place of {before}; dropped its settings {', '.join(dropped)}")

    def _forget(self, where: str) -> None:
        for known in [known for known in self.places if known == where or known.startswith((f"{where}.", f"{where}["))]:
            del self.places[known]


def _path(key: str) -> tuple[str | int, ...]:
    steps: list[str | int] = []
    at = 0
    while at < len(key):
        match = _STEP.match(key, at)
        if match is None or (match[3] is None and (at == 0) == match.group().startswith(".")):
            raise ValueError(f"{key!r} is not a path; write it as in train.steps or evaluate.metrics[0].use")
        bare, quoted, index = match.groups()
        steps.append(int(index) if index is not None else bare if bare is not None else quoted)
        at = match.end()
    if not steps or isinstance(steps[0], int):
        raise ValueError("no key; write it as in train.steps=500")
    return tuple(steps)


def _value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError as error:
        if text.startswith(_LOOKS_LIKE_TOML):
            raise ValueError(f"{text} is not valid TOML: {error}; a shell may have taken its quotes") from error
        return text
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    if too_deep(table):
        raise ValueError(TOO_DEEP)
    value = table.get("value")
    # Dates are of no use to any setting, and more keys than one mean a line break in the text.
    return value if len(table) == 1 and isinstance(value, (bool, int, float, str, list, dict)) else text


def _check_step(holder: Any, step: str | int, where: str) -> None:
    if isinstance(step, int):
        if not isinstance(holder, list):
            raise ValueError(f"{where} is no list")
        if step >= len(holder):
            raise ValueError(f"{where} has {len(holder)} entries, so none at {step}; the first is at 0")
    elif not isinstance(holder, Mapping):
        raise ValueError(f"{where} is {'a list' if isinstance(holder, list) else 'a plain value'}, not a table")


def _same_component(before: Any, after: Any) -> bool:
    """True for `heun` and `atlas-solvers-builtin:heun`; two full ids have to be equal."""
    if not isinstance(before, str) or not isinstance(after, str):
        return False
    if ":" in before and ":" in after:
        return before == after
    return before.rpartition(":")[2] == after.rpartition(":")[2]
