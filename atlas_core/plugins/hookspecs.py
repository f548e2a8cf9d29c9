"""The hooks that a hooks module may implement, as pluggy specifications.

    from atlas_core import hookimpl

    @hookimpl
    def atlas_train_step(run, step, steps, logs):
        print(step, logs["loss"])

An implementation takes those of the arguments that it needs, by name. The module is declared under the entry-point
group `atlas_core.plugins`. Commands that look up names import it, so it should import torch inside functions only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

import pluggy

from atlas_core.plugins.failures import LoadError, describe_error
from atlas_core.plugins.kinds import KINDS
from atlas_core.plugins.suggest import did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

    import click

    from atlas_core.config.presets import Preset

hookspec = pluggy.HookspecMarker("atlas_core")
hookimpl = pluggy.HookimplMarker("atlas_core")


class ComponentSpec(NamedTuple):
    """A component that a hook supplies; the entry-point line of a set that is computed."""

    name: str
    target: str
    """`package.module:Attribute`, imported when the component is first used."""


class Events:
    """What a hooks module may be told, and asked, while Atlas runs."""

    @hookspec
    def atlas_train_start(self, run: Any, config: Mapping[str, Any], step: int, steps: int) -> None:
        """Training of `run` starts at `step` of `steps`; `config` is the resolved one."""

    @hookspec
    def atlas_train_step(self, run: Any, step: int, steps: int, logs: Mapping[str, float]) -> None:
        """An optimizer step is done. Called every step: keep it cheap."""

    @hookspec
    def atlas_train_end(self, run: Any, step: int, reason: str) -> None:
        """Training is over: `finished`, `stopped`, or the error that ended it."""

    @hookspec
    def atlas_sample_step(self, step: Any, steps: int) -> None:
        """A sampler made one `atlas_core.contracts.Step` of `steps`; `step.x0` is the picture to preview."""

    @hookspec
    def atlas_checkpoint_saved(self, run: Any, path: Path, step: int) -> None:
        """A checkpoint is complete on disk."""

    @hookspec
    def atlas_presets(self) -> Sequence[Preset]:  # type: ignore[empty-body]
        """Return pipelines that `atlas-core run NAME` finds."""

    @hookspec
    def atlas_commands(self) -> Sequence[click.Command]:  # type: ignore[empty-body]
        """Return further commands of `atlas-core`."""


COLLECTED = ("atlas_presets", "atlas_commands")
"""Hooks that are asked, as opposed to told."""


def _component_specs() -> type:
    """Make the specification `atlas_<kinds>() -> Sequence[ComponentSpec]` of every kind."""

    def specification(kind: str) -> FunctionType:
        def supply(self: Any) -> Sequence[ComponentSpec]:  # type: ignore[empty-body]
            ...

        supply.__doc__ = f"Return components of the kind `{kind}`, for sets that are computed; others use entry points."
        return hookspec(supply)  # type: ignore[return-value]

    return type("ComponentSpecs", (), {kind.hook: specification(kind.name) for kind in KINDS})


def plugin_manager() -> pluggy.PluginManager:
    """Return a plugin manager that knows every hook, and no plugin."""
    manager = pluggy.PluginManager("atlas_core")
    manager.add_hookspecs(Events)
    manager.add_hookspecs(_component_specs())
    return manager


def register(manager: pluggy.PluginManager, plugin: object, name: str) -> None:
    """Register a hooks module, or an object with hook methods. Raises LoadError for hooks that cannot be called."""
    try:
        manager.register(plugin, name)
    except (pluggy.PluginValidationError, ValueError) as error:
        if manager.get_plugin(name) is plugin:
            manager.unregister(plugin)  # pluggy registers first and validates then
        raise LoadError("hook", describe_error(error), error) from error
    for caller in manager.get_hookcallers(plugin) or ():
        if not caller.has_spec():
            manager.unregister(plugin)
            known = [name for name in vars(manager.hook) if name.startswith("atlas_") and name != caller.name]
            raise LoadError("hook", f"there is no hook {caller.name!r}{did_you_mean(caller.name, known)}")


def call_one(manager: pluggy.PluginManager, hook: str, plugin_name: str) -> list[Any]:
    """Ask one plugin alone what it has for a hook without arguments. Raises LoadError, naming the hook."""
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        if implementation.plugin_name == plugin_name:
            try:
                return list(implementation.function())
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise LoadError("hook", f"{hook} raises {describe_error(error)}", error) from error
    return []


def supplied(manager: pluggy.PluginManager, plugin_name: str) -> list[tuple[str, ComponentSpec]]:
    """Return kind and specification of every component that one plugin supplies. Raises LoadError."""
    result = []
    for kind in KINDS:
        for spec in call_one(manager, kind.hook, plugin_name):
            if not isinstance(spec, ComponentSpec):
                raise LoadError("hook", f"{kind.hook} returns {spec!r:.80}, which is no ComponentSpec")
            result.append((kind.name, spec))
    return result
