"""The lock of a run: which component, of which distribution and version, with which settings."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

from atlas_core.config.resolved import Resolved
from atlas_core.errors import ComponentError, PluginError, Problem

if TYPE_CHECKING:
    from atlas_core.plugins.registry import Registry

SCHEMA = 1


def lock(components: Iterable[Resolved]) -> dict[str, Any]:
    """Return the lock as plain data: each component, nested ones too, and the versions that a result depends on."""
    return {
        "schema": SCHEMA,
        "versions": {
            "python": platform.python_version(),
            "torch": metadata.version("torch"),
            "atlas-core": metadata.version("atlas-core"),
        },
        "components": [
            {
                "where": component.where,
                "kind": component.kind,
                "id": component.id,
                "version": component.entry.version,
                "config": {key: value for key, value in component.table.items() if key != "use"},
            }
            for component in components
        ],
    }


def missing(lock: Mapping[str, Any], registry: Registry, *, only: Iterable[str] = ()) -> list[Problem]:
    """Return a problem for each component of a lock that is not here, with the pip line that brings it back.

    only: kinds to look at; all without it. Imports nothing but hooks modules.
    """
    kinds, problems = frozenset(only), []
    for component in lock["components"]:
        kind, component_id = component["kind"], component["id"]
        if kinds and kind not in kinds:
            continue
        try:
            registry.resolve(kind, component_id)
        except (ComponentError, PluginError) as error:
            provider = component_id.partition(":")[0]
            gone = all(entry.provider != provider for entry in registry.entries())
            hint = f'pip install "{provider}=={component["version"]}"' if gone else error.hint
            message = f"{kind} {component_id} {component['version']} is not installed" if gone else error.message
            problems.append(Problem(message, where=component["where"], hint=hint))
    return problems


def changed(lock: Mapping[str, Any], registry: Registry) -> list[str]:
    """Return a line for each distribution that is here in another version than the lock names."""
    installed = {entry.provider: entry.version for entry in registry.entries()}
    wanted = {component["id"].partition(":")[0]: component["version"] for component in lock["components"]}
    return [
        f"{provider} {installed[provider]} is installed, the lock names {version}"
        for provider, version in sorted(wanted.items())
        if installed.get(provider, version) != version
    ]
