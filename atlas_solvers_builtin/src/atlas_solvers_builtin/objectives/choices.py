"""Settings that mean something for one value of another setting alone: no default hides that they are ignored."""

from __future__ import annotations

from typing import Any

import attrs
from attrs.validators import optional


def only_for(choice: str, value: str, default: float, help: str, *validators: Any) -> Any:
    """Declare a number that holds where the field `choice` has `value`; unset, it is `default` there."""
    text = f"{help} Only for {choice} = {value!r}; default {default:g}."
    metadata = {"help": text, "choice": choice, "value": value, "otherwise": default}
    return attrs.field(default=None, validator=optional(list(validators)), metadata=metadata)


def refuse_without_effect(config: Any) -> None:
    """Raise ValueError for a field of `only_for` that is set although the choice is another."""
    for field in attrs.fields(type(config)):
        choice, value = field.metadata.get("choice"), field.metadata.get("value")
        if choice and getattr(config, choice) != value and getattr(config, field.name) is not None:
            chosen = getattr(config, choice)
            raise ValueError(f"{field.name} has no effect with {choice} = {chosen!r}; it is for {value!r}")


def chosen(config: Any, name: str) -> float:
    """Return the number, or its default where it is unset."""
    value = getattr(config, name)
    return float(getattr(attrs.fields(type(config)), name).metadata["otherwise"] if value is None else value)
