"""Fields of a component's config that the pipeline fills in: other components, and facts about the data.

Plain settings are plain `attrs` fields with a `help` in their metadata; these two are for what a user rarely writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

FACTS: Mapping[str, str] = {
    "data.shape": "shape of one item, as in (1, 8, 8)",
    "data.classes": "number of classes; 0 where there are none",
    "data.std": "standard deviation of the training data",
    "data.range": "least and largest value of the data, as (-1, 1); images have one",
    "condition.vector": "width of the condition's vector; 0 where there is none",
    "condition.tokens": "width of the condition's tokens; 0 where there are none",
    "condition.image": "channels of the condition's image; 0 where there is none",
    "objective.jumps": "whether the objective tells the network where a step ends, as it does a flow map",
    "train.steps": "number of training steps",
}
"""What `derived` may name, and what it means."""


def derived(fact: str, *, help: str, validator: Callable[..., Any] | None = None, default: Any = attrs.NOTHING) -> Any:
    """Declare a field that the pipeline fills in from the fact `fact`, unless the user sets it.

    A component built on its own has to be given the value, or has the default. Raises ValueError for an unknown fact.
    """
    if fact not in FACTS:
        raise ValueError(f"unknown fact {fact!r}; known: {', '.join(FACTS)}")
    return attrs.field(default=default, validator=validator, kw_only=True, metadata={"help": help, "fact": fact})


def component(kind: str, *, help: str, default: Any = attrs.NOTHING, many: bool = False) -> Any:
    """Declare a field that holds another component: in a config, a table with `use` (`many`: a list of such tables).

    `default` is a name, a table, a list of them (`many`) or None; it is resolved when the owner is built. Name it in
    full, `provider:name`, unless it is your own: a short name is ambiguous once another plugin has one like it.
    """
    metadata = {"help": help, "kind": kind, "many": many, "default_use": default}
    if default is attrs.NOTHING:
        return attrs.field(kw_only=True, metadata=metadata)
    if default is None:
        return attrs.field(default=None, kw_only=True, metadata=metadata)

    def resolve() -> Any:
        from atlas_core.building import build_table

        tables = [{"use": use} if isinstance(use, str) else use for use in (default if many else [default])]
        built = [build_table(kind, table) for table in tables]
        return built if many else built[0]

    return attrs.field(factory=resolve, kw_only=True, metadata=metadata)
