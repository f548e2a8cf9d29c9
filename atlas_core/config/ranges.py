"""Types and ranges of a setting in words: the same in an error message, in `describe` and in the documentation."""

from __future__ import annotations

import builtins
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    Path: "a path",
    None: "null",
    type(None): "null",
    list: "a list",
    tuple: "a list",
    dict: "a table",
    Any: "any value",
}
_COMPARISON = {">": "> {}", ">=": "≥ {}", "<": "< {}", "<=": "≤ {}"}


class Unseen:
    """Stands for a class that is imported under TYPE_CHECKING: some object that Python hands over, no plain value."""


class _Names(dict[str, Any]):
    """The names of a class body; one that is known nowhere is a new `Unseen`."""

    def __init__(self, inner: Mapping[str, Any], outer: Mapping[str, Any]) -> None:
        super().__init__(inner)
        self.outer = outer

    def __missing__(self, name: str) -> Any:
        if name in self.outer or hasattr(builtins, name):
            raise KeyError(name)
        return type(name, (Unseen,), {})


def type_of(owner: type, field: attrs.Attribute[Any]) -> Any:
    """Return the annotation of a field as a type; names that only a type checker sees (`Tensor`) become an `Unseen`."""
    if not isinstance(field.type, str):
        return Any if field.type is None else field.type
    # One field at a time: attrs.resolve_types gives up on the whole class if a single name is missing.
    home = next((base for base in owner.__mro__ if field.name in inspect.get_annotations(base)), owner)
    probe = type("Probe", (), {"__annotations__": {"field": field.type}})
    names = dict(vars(sys.modules[home.__module__])) if home.__module__ in sys.modules else {}
    try:
        return typing.get_type_hints(probe, names, _Names(vars(home), outer=names))["field"]
    except (NameError, AttributeError, TypeError):
        return Any


def members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def may_be_null(annotation: Any) -> bool:
    """True where None is a value of the type by its own declaration; `Any` does not count."""
    return type(None) in members(annotation)


def describe_type(annotation: Any) -> str:
    """Return a type in words: `an integer or null`, `"cosine" or "constant"`, `a list of integers`."""
    if get_origin(annotation) is Literal:
        return " or ".join(f'"{option}"' if isinstance(option, str) else str(option) for option in get_args(annotation))
    parts = members(annotation)
    if len(parts) > 1:
        return " or ".join(describe_type(part) for part in sorted(parts, key=lambda part: part is type(None)))
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return describe_type(arguments[0])
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)}: " + ", ".join(describe_type(argument) for argument in arguments)
    if origin in (list, tuple, set, frozenset) or _is_sequence(origin):
        return f"a list, each {describe_type(arguments[0])}" if arguments else "a list"
    if origin is not None:
        return _WORDS.get(origin, "a table")
    if attrs.has(annotation):
        return "a table"
    return _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def describe_range(validator: Callable[..., Any] | None) -> str:
    """Return what an attrs validator allows: `≥ 0 and < 1`, `one of "a", "b"`; empty where it cannot be said."""
    # attrs keeps its validator classes private, so they are known by what they carry.
    if validator is None:
        return ""
    if hasattr(validator, "compare_op"):
        return _COMPARISON.get(validator.compare_op, "{}").format(validator.bound)  # type: ignore[attr-defined]
    if hasattr(validator, "_validators"):
        return _join(" and ", [describe_range(part) for part in validator._validators])
    if hasattr(validator, "member_validator"):
        each = describe_range(validator.member_validator)
        return _join(", ", [describe_range(validator.iterable_validator), f"each {each}" if each else ""])  # type: ignore[attr-defined]
    if hasattr(validator, "options"):
        options = (
            sorted(validator.options, key=str) if isinstance(validator.options, (set, frozenset)) else validator.options
        )
        return "one of " + ", ".join(f'"{option}"' if isinstance(option, str) else str(option) for option in options)
    if hasattr(validator, "min_length"):
        return f"at least {validator.min_length} long"
    if hasattr(validator, "max_length"):
        return f"at most {validator.max_length} long"
    if type(validator).__name__ == "_OptionalValidator":
        return describe_range(getattr(validator, "validator", None))
    return ""


def options(validator: Callable[..., Any] | None) -> tuple[Any, ...]:
    """Return the values that an attrs validator lists one by one; empty if it lists none."""
    if hasattr(validator, "_validators"):
        return tuple(option for part in validator._validators for option in options(part))  # type: ignore[union-attr]
    if type(validator).__name__ == "_OptionalValidator":
        return options(getattr(validator, "validator", None))
    return tuple(getattr(validator, "options", ()))


def violation(validator: Callable[..., Any], instance: Any, field: attrs.Attribute[Any], value: Any) -> str:
    """Return why the validator refuses the value, in one line; empty where it does not."""
    try:
        validator(instance, field, value)
    except (ValueError, TypeError) as error:
        allowed = describe_range(validator)
        if allowed:
            return f"{shown(value)} is out of range: must be {allowed}"
        return str(error.args[0] if error.args else error)
    return ""


def shown(value: Any) -> str:
    """Return a value as a user would write it in TOML, cut to a length that fits a line."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    text = f'"{value}"' if isinstance(value, str) else repr(list(value)) if isinstance(value, tuple) else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _is_sequence(origin: Any) -> bool:
    return getattr(origin, "__module__", "") == "collections.abc" and origin.__name__ in (
        "Sequence",
        "Iterable",
        "Collection",
    )


def _join(word: str, parts: list[str]) -> str:
    return word.join(part for part in parts if part)
