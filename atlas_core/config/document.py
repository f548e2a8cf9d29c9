"""Opens what `atlas-core run X` names, a file or a preset, lays the overrides over it and resolves it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from atlas_core.config import overrides as overriding
from atlas_core.config import pipeline, presets, transport
from atlas_core.config.nearest import did_you_mean
from atlas_core.config.plan import PipelinePlan, TransportPlan
from atlas_core.config.sections import PluginsConfig
from atlas_core.config.source import Source, read_file
from atlas_core.config.structure import Reader
from atlas_core.errors import ConfigError
from atlas_core.plugins.policy import Policy
from atlas_core.plugins.registry import Registry, default_registry

__all__ = ["Document", "PipelinePlan", "TransportPlan", "load_document"]

SUFFIXES = (".toml", ".json")


@attrs.frozen
class Document:
    """A config as given, overrides included, before anything in it is looked up."""

    name: str
    """Default name of the run: that of the preset, or the file's without its ending."""
    applied: overriding.Applied

    @property
    def source(self) -> Source:
        """Values and places."""
        return self.applied.source

    @property
    def tables(self) -> dict[str, Any]:
        return self.source.tables

    @property
    def is_transport(self) -> bool:
        """True for `[source]`, `[target]`, `[solver]`; False for a network that is trained."""
        return transport.is_transport(self.tables)

    def plugins(self) -> PluginsConfig:
        """Return `[plugins]`, which decides what the rest is looked up in. Raises ConfigError."""
        reader = Reader(default_registry(), facts={}, source=self.source)
        section = reader.section(PluginsConfig, self.tables.get("plugins", {}), "$.plugins")
        reader.raise_problems(f"{self.source.name} cannot be run")
        assert section is not None  # else there was a problem
        config: PluginsConfig = section.config
        return config

    def registry(self) -> Registry:
        """Return the registry under this document's `[plugins]` and the environment."""
        config = self.plugins()
        return default_registry() if config == PluginsConfig() else Registry(Policy.from_config(config))

    def resolve(self, registry: Registry | None = None) -> PipelinePlan | TransportPlan:
        """Resolve, negotiate and fill in everything. Raises ConfigError with all problems, or the data's own error."""
        registry = self.registry() if registry is None else registry
        if self.is_transport:
            return transport.resolve(self.applied, registry, name=self.name)
        return pipeline.resolve(self.applied, registry, name=self.name)


def load_document(target: str | Path, overrides: Sequence[str] = (), *, registry: Registry | None = None) -> Document:
    """Open a config: a path if it ends in .toml or .json or holds a separator, else a preset.

    `overrides` are texts as `train.steps=500`. Raises ConfigError for what cannot be found or parsed; problems of
    overrides and values are raised by `Document.resolve`, together.
    """
    text = str(target)
    if isinstance(target, Path) or text.endswith(SUFFIXES) or "/" in text or "\\" in text:
        path = Path(target)
        if not path.is_file():
            raise _no_such_file(path, registry or default_registry())
        name, source = path.stem, read_file(path)
    else:
        preset = presets.find(text, registry or default_registry()).preset
        name, source = preset.name, preset.source()
    default_use = transport.default_use if transport.is_transport(source.tables) else pipeline.default_use
    return Document(name, overriding.apply(source, overrides, default_use))


def _no_such_file(path: Path, registry: Registry) -> ConfigError:
    if path.is_dir():
        inside = path / "config.toml"
        hint = f"Its config is {inside}." if inside.is_file() else "Name a .toml or .json file in it."
        return ConfigError(f"{path} is a folder", hint=hint)
    if path.parent.is_dir():
        beside = [entry.name for entry in path.parent.iterdir() if entry.suffix in SUFFIXES and entry.is_file()]
        hint = did_you_mean(path.name, beside)
    else:
        hint = f"There is no folder {path.parent}."
    names = [offer.preset.name for offer in presets.offers(registry)]
    if path.stem in names:
        hint = f"There is a preset of that name: atlas-core run {path.stem}"
    elif not hint:
        hint = f"Presets: {', '.join(names)}." if names else "`atlas-core presets list` shows the presets."
    return ConfigError(f"there is no file {path}", hint=hint)
