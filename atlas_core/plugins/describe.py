"""What there is to know about a component, read from its class: its config's fields, what it can do, its paper."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import attrs

from atlas_core.config.ranges import describe_range, describe_type, may_be_null, type_of
from atlas_core.plugins.loading import contract_members
from atlas_core.plugins.scan import Entry


@attrs.frozen
class Field:
    """One setting of a component."""

    name: str
    type: str
    """In words, as in error messages."""
    default: Any
    """In the types of JSON; None, too, where there is none: for one that is required, or has a `fact`."""
    required: bool
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
        entry=entry._replace(status="ok", reason=""),  # it is loaded, so it is
        summary=summary,
        text=text.strip(),
        fields=tuple(_field(config, attribute) for attribute in attrs.fields(config) if attribute.init),
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


def _field(owner: type, attribute: attrs.Attribute[Any]) -> Field:
    metadata = attribute.metadata
    default: Any = metadata.get("default_use", attribute.default)
    given = default is attrs.NOTHING
    if hasattr(default, "takes_self"):  # attrs.Factory, which is no class to type checkers
        default = "computed" if default.takes_self else default.factory()
    return Field(
        name=attribute.alias or attribute.name,
        type=_type(owner, attribute),
        default=None if given else _plain(default),
        required=given and "fact" not in metadata,
        range=describe_range(attribute.validator),
        help=metadata.get("help", ""),
        fact=metadata.get("fact", ""),
        kind=metadata.get("kind", ""),
    )


def _type(owner: type, attribute: attrs.Attribute[Any]) -> str:
    metadata, annotation = attribute.metadata, type_of(owner, attribute)
    if "kind" not in metadata:
        return describe_type(annotation)
    held = f"a list, each a {metadata['kind']}" if metadata["many"] else f"a {metadata['kind']}"
    return f"{held} or null" if metadata["default_use"] is None or may_be_null(annotation) else held


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it, which knows neither tuples nor infinities."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if value is None or (isinstance(value, (bool, int, float, str)) and finite) else str(value)
