"""Tells hooks modules what happens in a run, and asks them what they have. One that fails is switched off."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas_core.errors import PluginError
from atlas_core.plugins.failures import Failure, LoadError, describe_error
from atlas_core.plugins.hookspecs import call_one, plugin_manager, register
from atlas_core.plugins.kinds import HOOKS
from atlas_core.plugins.scan import Entry

if TYPE_CHECKING:
    import click

    from atlas_core.config.presets import Preset
    from atlas_core.contracts import Step
    from atlas_core.plugins.registry import Registry

_Listener = tuple[str, Callable[..., object], tuple[str, ...]]


class Events:
    """The hooks of one run.

    An implementation that raises is switched off until the run ends, warned of once and kept in `failures`; with
    `strict` it raises PluginError. A call with one implementation costs microseconds: fine per step, never per element.
    """

    def __init__(self, registry: Registry | None = None, *, strict: bool = False) -> None:
        self.strict = strict
        self.failures: list[Failure] = []
        self._manager = plugin_manager()
        self._owners: dict[str, Entry] = {}
        self._listeners: dict[str, list[_Listener]] = {}
        for entry, module in registry.hooks()[1] if registry else ():
            self._owners[entry.id] = entry
            register(self._manager, module, entry.id)

    def register(self, plugin: object) -> None:
        """Add an object with hook methods, as a progress bar. Raises LoadError for hooks that do not exist."""
        name = f"{type(plugin).__module__}.{type(plugin).__qualname__}-{len(self._manager.list_name_plugin())}"
        self._owners[name] = Entry(HOOKS, type(plugin).__qualname__, "this-process", "", name)
        register(self._manager, plugin, name)
        self._listeners.clear()

    # ---- what they are told ------------------------------------------------------------------------------------------

    def train_start(self, run: Any, config: Mapping[str, Any], step: int, steps: int) -> None:
        """Training of `run` starts at `step` of `steps`."""
        self._tell("atlas_train_start", run=run, config=config, step=step, steps=steps)

    def train_step(self, run: Any, step: int, steps: int, logs: Mapping[str, float]) -> None:
        """An optimizer step is done."""
        self._tell("atlas_train_step", run=run, step=step, steps=steps, logs=logs)

    def train_end(self, run: Any, step: int, reason: str) -> None:
        """Training is over."""
        self._tell("atlas_train_end", run=run, step=step, reason=reason)

    def sample_step(self, step: Step, steps: int) -> None:
        """A sampler made one step of `steps`."""
        self._tell("atlas_sample_step", step=step, steps=steps)

    def checkpoint_saved(self, run: Any, path: Path, step: int) -> None:
        """A checkpoint is complete on disk."""
        self._tell("atlas_checkpoint_saved", run=run, path=path, step=step)

    def _tell(self, hook: str, **arguments: Any) -> None:
        # Not pluggy's own call: it stops at the first error without saying whose it is.
        listeners = self._listeners.get(hook)
        if listeners is None:
            listeners = self._listeners[hook] = self._find(hook)
        for listener in tuple(listeners):
            owner, function, names = listener
            try:
                function(*[arguments[name] for name in names])
            except (Exception, SystemExit) as error:  # noqa: BLE001 - recorded, warned of, raised if strict
                listeners.remove(listener)
                self._switched_off(hook, owner, error)

    def _find(self, hook: str) -> list[_Listener]:
        caller = getattr(self._manager.hook, hook)
        # pluggy keeps them in the reverse of its calling order (tryfirst last).
        return [(each.plugin_name, each.function, each.argnames) for each in reversed(caller.get_hookimpls())]

    def _switched_off(self, hook: str, owner: str, error: BaseException) -> None:
        failure = Failure.of("event", self._owners[owner], error)
        self.failures.append(failure)
        message = f"{hook} of {owner} raises {describe_error(error)}"
        if self.strict:
            raise PluginError(
                message,
                hint=f"Without --strict the run goes on; ATLAS_DISABLE_PLUGINS={failure.entry.provider} leaves it out.",
            ) from error
        warnings.warn(f"{message}; it is switched off for this run", RuntimeWarning, stacklevel=4)

    # ---- what they are asked -----------------------------------------------------------------------------------------

    def collect(self, hook: str) -> list[tuple[str, Any]]:
        """Return what every plugin has for a hook without arguments, each with its provider, in a stable order."""
        result = []
        for name, entry in sorted(self._owners.items()):
            try:
                result += [(entry.provider, item) for item in call_one(self._manager, hook, name)]
            except LoadError as error:
                self.failures.append(Failure.of("event", entry, error))
                if self.strict:
                    raise PluginError(f"{name}: {error}") from error
                warnings.warn(f"{name}: {error}; what it has is left out", RuntimeWarning, stacklevel=3)
        return result

    def presets(self) -> list[Preset]:
        """Return the presets of every plugin; `collect("atlas_presets")` says whose they are."""
        return [preset for _, preset in self.collect("atlas_presets")]

    def commands(self) -> list[click.Command]:
        """Return the further commands of every plugin."""
        return [command for _, command in self.collect("atlas_commands")]
