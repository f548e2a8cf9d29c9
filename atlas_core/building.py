"""Builds one component by its name, as a config would: names resolved, settings checked, nested components built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atlas_core.config.structure import structure
from atlas_core.plugins.registry import default_registry


def build(kind: str, name: str, /, **config: Any) -> Any:
    """Return a new component, as in `build("solver", "sinkhorn", kernel={"use": "gaussian"}, epsilon=0.1)`.

    name: short, or `provider:name`. A setting that is a component takes a name, a table with `use`, or the component
    itself. Raises ComponentError or PluginError for the component, ConfigError for its settings, all of them at once.
    """
    registry = default_registry()
    registry.load(registry.resolve(kind, name))  # what is wrong with the component itself is no matter of its config
    return build_table(kind, {**config, "use": name})


def build_table(kind: str, table: Mapping[str, Any]) -> Any:
    """Return a new component from a table with `use`. Raises ConfigError."""
    return structure(kind, table, facts={}, registry=default_registry()).build()
