"""What a table of a config has become: checked settings, not yet built."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs

from atlas_core.config.source import Place
from atlas_core.errors import AtlasError, ConfigError, PluginError, Problem, RunError

if TYPE_CHECKING:
    from atlas_core.plugins.registry import Entry


def config_class(target: Any) -> type | None:
    """Return the attrs class of a component's settings: the component itself, or its `Config`; None without one."""
    for config in (getattr(target, "Config", None), target):
        if isinstance(config, type) and attrs.has(config):
            return config
    return None


class Several(tuple[Any, ...]):
    """The value of a field that holds a list of components: each a `Resolved`, or an object that Python gave."""


@attrs.frozen(kw_only=True, slots=False, eq=False)
class Section:
    """The settings of one attrs class. Nested components are `Resolved`, or `Several` of them."""

    cls: type
    settings: dict[str, Any]
    table: dict[str, Any]
    """All settings in the types of TOML, defaults and derived ones too; reading it gives the same settings again."""
    given: tuple[str, ...] = ()
    """Keys that the user set."""
    where: str
    place: Place

    @property
    def light(self) -> bool:
        """True if `config` costs nothing: no nested network is built for it."""
        return all(child.cls is child.target and child.light for child in self.children())

    @cached_property
    def config(self) -> Any:
        """The instance, nested components built. Raises ConfigError for settings that do not fit together."""
        return self._construct()

    def children(self) -> Iterator[Resolved]:
        """Nested components, not those nested in them."""
        for value in self.settings.values():
            for entry in value if isinstance(value, Several) else (value,):
                if isinstance(entry, Resolved):
                    yield entry

    def components(self) -> Iterator[Resolved]:
        """Every component in it: itself, if it is one, and all that are nested, at any depth."""
        if isinstance(self, Resolved):
            yield self
        for child in self.children():
            yield from child.components()

    def _construct(self) -> Any:
        settings = {name: _built(value) for name, value in self.settings.items()}
        try:
            return self.cls(**settings)
        except ValueError as error:
            raise self._config_error(error) from error

    def _config_error(self, error: ValueError) -> ConfigError:
        message = str(error.args[0] if error.args else error)
        problem = Problem(message, where=self.where, file=self.place.file, line=self.place.line)
        return ConfigError(f"{self.where} cannot be set up", problems=[problem])


@attrs.frozen(kw_only=True, slots=False, eq=False)
class Resolved(Section):
    """A component that is found, imported and checked, and can be built."""

    kind: str
    entry: Entry
    target: Any

    @property
    def id(self) -> str:
        """`provider:name`."""
        return self.entry.id

    def build(self) -> Any:
        """Return a new component. Raises ConfigError for settings that it refuses, PluginError if it breaks."""
        try:
            config = self._construct()
            return config if self.cls is self.target else self.target(config)
        except AtlasError:
            raise
        except ValueError as error:
            raise self._config_error(error) from error
        except Exception as error:
            if out_of_memory(error):
                raise RunError(
                    f"{self.kind} {self.entry.id} does not fit into memory: {error or 'out of memory'}",
                    hint=f"Smaller settings in {self.where} need less.",
                ) from error
            raise PluginError(
                f"{self.kind} {self.entry.id} {self.entry.version} cannot be built: {type(error).__name__}: {error}",
                hint="`atlas-core list-plugins --check` shows what every plugin does.",
            ) from error


def out_of_memory(error: Exception) -> bool:
    """True for what says nothing about the plugin; on the CPU torch has no class of its own for it."""
    name, text = type(error).__name__, str(error)
    return isinstance(error, MemoryError) or name == "OutOfMemoryError" or "not enough memory" in text


def _built(value: Any) -> Any:
    if isinstance(value, Resolved):
        return value.build()
    return [_built(entry) for entry in value] if isinstance(value, Several) else value
