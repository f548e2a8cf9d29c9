"""Imports the target of one entry and holds it against its contract, by shape alone: nothing is instantiated."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from atlas_core.plugins.failures import LoadError, describe_error
from atlas_core.plugins.kinds import HOOKS, KINDS

_INSTEAD = {"log_kernel": "block"}
"""Methods that another one may stand in for: a signed kernel has no logarithm."""


def load_target(kind: str, target: str) -> Any:
    """Return the component class, or the hooks module, behind a target. Raises LoadError, whatever the plugin does."""
    module_name, _, attribute = target.partition(":")
    loaded: Any = _import(module_name)
    for part in attribute.split(".") if attribute else ():
        try:
            loaded = getattr(loaded, part)
        except AttributeError as error:
            raise LoadError("import", f"{target} does not exist: {_absence(loaded, part)}", error) from error
    if kind != HOOKS:
        problem = shape_problem(kind, loaded)
        if problem:
            raise LoadError("contract", f"{target} is no {kind}: {problem}")
    return loaded


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        if name == missing or name.startswith(f"{missing}."):
            message = f"module {missing} does not exist"
        elif missing.partition(".")[0] == name.partition(".")[0]:
            message = f"importing {name} fails: its own module {missing} does not exist"
        else:
            message = f"it needs the module {missing!r}, which is not installed"
        raise LoadError("import", message, error) from error
    except SystemExit as error:
        raise LoadError("import", f"importing {name} calls sys.exit({error.code!r})", error) from error
    except BaseException as error:
        raise LoadError("import", f"importing {name} raises {describe_error(error)}", error) from error


def _absence(owner: Any, name: str) -> str:
    if isinstance(owner, ModuleType) and owner.__file__ is None:
        folders = ", ".join(getattr(owner, "__path__", ())) or "memory"
        return f"{owner.__name__} is an empty namespace package in {folders}, not the installed one"
    from atlas_core.plugins.suggest import did_you_mean

    return f"{getattr(owner, '__name__', owner)} has no {name!r}{did_you_mean(name, vars(owner))}"


@contextlib.contextmanager
def captured_output() -> Iterator[io.StringIO]:
    """Keep what is printed inside: a plugin that greets the user would spoil the JSON of every command."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        yield output


def contract_members(kind: str) -> tuple[list[str], list[str]]:
    """Return the methods and the data attributes that the contract of a kind requires."""
    import atlas_core.contracts

    contract = getattr(atlas_core.contracts, next(each.contract for each in KINDS if each.name == kind))
    methods: list[str] = []
    data: list[str] = []
    for base in reversed(contract.__mro__):
        if not getattr(base, "_is_protocol", False):
            continue
        data += [name for name in vars(base).get("__annotations__", {}) if not name.startswith("_")]
        for name, member in vars(base).items():
            if isinstance(member, property):
                data.append(name)
            elif callable(member) and (not name.startswith("_") or name == "__call__"):
                methods.append(name)
    return methods, data


def shape_problem(kind: str, loaded: Any) -> str:
    """Say what keeps `loaded` from being a component of this kind; empty where nothing does."""
    config = getattr(loaded, "Config", None)
    if not callable(loaded):
        return f"it is {loaded!r:.80}, neither a class nor a callable"
    if not hasattr(config or loaded, "__attrs_attrs__"):
        return "it is neither an attrs class nor does it carry an attrs class `Config`"
    if not isinstance(loaded, type):
        return ""  # a factory: what it makes is known when it is called
    methods, data = contract_members(kind)
    missing = [name for name in methods if not _has_method(loaded, name)]
    if config is None:  # only here is every attribute known: an nn.Module may set its own in __init__
        fields = {field.name for field in loaded.__attrs_attrs__}  # type: ignore[attr-defined]
        missing += [name for name in data if name not in fields and not hasattr(loaded, name)]
    if not missing:
        return ""
    return f"{loaded.__name__} lacks {', '.join(missing)} (contract: atlas_core.contracts.{kind.capitalize()})"


def _has_method(loaded: type, name: str) -> bool:
    if name == "__call__":  # every class has type's own
        return any("__call__" in vars(base) for base in loaded.__mro__)
    return any(callable(getattr(loaded, spelled, None)) for spelled in (name, _INSTEAD.get(name)) if spelled)
