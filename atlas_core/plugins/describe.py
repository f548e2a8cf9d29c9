"""What there is to know about a component, read from its class: its config's fields, what it can do, its paper."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from atlas_core.plugins.loading import contract_members
from atlas_core.plugins.scan import Entry

_COMPARISONS: dict[Callable[..., Any], str] = {operator.ge: "≥", operator.gt: ">", operator.le: "≤", operator.lt: "<"}


@attrs.frozen
class Field:
    """One setting of a component."""

    name: str
    type: str
    default: str
    """As a user would write it; `required`, or empty where the pipeline fills it in."""
    range: str
    help: str
    fact: str = ""
    """The fact that the pipeline fills it in from, as `data.shape`."""
    kind: str = ""
    """The kind of the component that it holds."""


@attrs.frozen
class Description:
    """A component as `atlas-core describe` shows it."""

    entry: Entry
    summary: str
    text: str
    """The rest of the docstring."""
    fields: tuple[Field, ...]
    capabilities: Mapping[str, Any]
    paper: str

    def as_json(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        content = attrs.asdict(self, filter=lambda attribute, _: attribute.name != "entry")
        return {"schema": 1, **self.entry._asdict(), **content}


def describe(entry: Entry, loaded: Any) -> Description:
    """Describe the component `loaded` behind `entry`."""
    summary, _, text = (inspect.getdoc(loaded) or "").partition("\n")
    config = getattr(loaded, "Config", loaded)
    return Description(
        entry=entry,
        summary=summary,
        text=text.strip(),
        fields=tuple(_field(attribute) for attribute in attrs.fields(config) if attribute.init),
        capabilities=_capabilities(entry.kind, loaded),
        paper=str(getattr(loaded, "paper", "")),
    )


def _capabilities(kind: str, loaded: Any) -> dict[str, Any]:
    """Return the attributes of the contract that the class itself has: `accepts`, `needs`, `stochastic`, …"""
    result: dict[str, Any] = {}
    for name in contract_members(kind)[1]:
        value = getattr(loaded, name, None)
        if isinstance(value, frozenset):
            result[name] = sorted(value)
        elif isinstance(value, bool | int | float | str):
            result[name] = value
    return result


def _field(attribute: attrs.Attribute[Any]) -> Field:
    metadata = attribute.metadata
    annotation = attribute.type
    return Field(
        name=attribute.alias or attribute.name,
        type=annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation)),
        default=_default(attribute),
        range=_range(attribute.validator),
        help=metadata.get("help", ""),
        fact=metadata.get("fact", ""),
        kind=metadata.get("kind", ""),
    )


def _default(attribute: attrs.Attribute[Any]) -> str:
    default: Any = attribute.metadata.get("default_use", attribute.default)
    if default is attrs.NOTHING:
        return "" if "fact" in attribute.metadata else "required"
    if hasattr(default, "takes_self"):  # attrs.Factory, which is no class to type checkers
        default = "computed" if default.takes_self else default.factory()
    return _written(default)


def _written(value: Any) -> str:
    """Return a value as TOML would have it, near enough to be copied."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_written, value))}]"
    return "none" if value is None else str(value)


def _range(validator: Any) -> str:
    """Return what attrs' own validators allow, in mathematical notation; empty for any other validator."""
    if validator is None:
        return ""
    if hasattr(validator, "_validators"):
        return " and ".join(filter(None, map(_range, validator._validators)))
    if hasattr(validator, "compare_func"):
        return f"{_COMPARISONS.get(validator.compare_func, validator.compare_op)} {validator.bound}"
    if hasattr(validator, "options"):
        return f"one of {', '.join(map(_written, sorted(validator.options, key=str)))}"
    if hasattr(validator, "member_validator"):
        inner = _range(validator.member_validator)
        return f"each {inner}" if inner else ""
    if hasattr(validator, "validator"):
        inner = _range(validator.validator)
        return f"{inner} or none" if inner else ""
    return ""
