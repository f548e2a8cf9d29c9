"""Presets: whole pipelines by name, shipped by plugins through the hook `atlas_presets`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from atlas_core.config.nearest import did_you_mean
from atlas_core.config.source import Source, read_toml
from atlas_core.errors import ConfigError

if TYPE_CHECKING:
    from atlas_core.plugins.registry import Registry

_LIST = "`atlas-core presets list` shows all."


@attrs.frozen
class Preset:
    """A pipeline that `atlas-core run NAME` finds."""

    name: str
    summary: str
    text: str
    """The config, in TOML."""
    needs: Mapping[str, str] = attrs.field(factory=dict)
    """What a run takes, in words: `data`, `memory`, `time`."""

    def source(self) -> Source:
        """Parse the config. Raises ConfigError, with the line, if its author made a mistake."""
        return read_toml(self.text, f"preset '{self.name}'")


@attrs.frozen
class Offer:
    """A preset and the distribution that ships it."""

    provider: str
    preset: Preset

    @property
    def id(self) -> str:
        """`provider:name`."""
        return f"{self.provider}:{self.preset.name}"


def offers(registry: Registry) -> tuple[Offer, ...]:
    """Return the presets of every plugin, by name. A plugin that fails here is left out, with a warning."""
    from atlas_core.plugins.events import Events

    collected = Events(registry).collect("atlas_presets")
    found = [Offer(provider, preset) for provider, preset in collected if isinstance(preset, Preset)]
    return tuple(sorted(found, key=lambda offer: (offer.preset.name, offer.provider)))


def find(name: str, registry: Registry) -> Offer:
    """Return the preset that `name`, short or `provider:name`, can mean. Raises ConfigError with the nearest names."""
    known = offers(registry)
    matches = [offer for offer in known if name in (offer.preset.name, offer.id)]
    preferred = [offer for provider in registry.policy.prefer for offer in matches if offer.provider == provider]
    if len(matches) == 1 or preferred:
        return (preferred or matches)[0]
    if matches:
        ids = ", ".join(offer.id for offer in matches)
        raise ConfigError(f"preset {name!r} is ambiguous: {ids}", hint="Write one of them in full.")
    if not known:
        raise ConfigError(f"there is no preset {name!r}: none is installed", hint="pip install atlas-datasets-builtin")
    hint = did_you_mean(name, [offer.preset.name for offer in known])
    raise ConfigError(
        f"there is no preset {name!r}", hint=f"{hint} {_LIST} A file is given by its path, as in ./{name}.toml."
    )
