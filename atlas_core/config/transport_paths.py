"""From two paths to the config of a transport: which dataset opens them, and what is coupled with what by default."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import attrs

from atlas_core.config import overrides as overriding
from atlas_core.config import transport
from atlas_core.config.document import Document
from atlas_core.config.nearest import did_you_mean
from atlas_core.config.resolved import config_class
from atlas_core.config.source import Source
from atlas_core.errors import AtlasError, UsageError
from atlas_core.plugins.registry import Entry, Registry, default_registry

FOLDER = "/"
"""The ending of a folder."""
SOLVER = "atlas-solvers-builtin:sinkhorn"
KERNEL: Mapping[str, Any] = {"use": "atlas-kernels-builtin:squared-euclidean", "scale": "mean"}
"""The cost of a solver that has a kernel, unless the user names another."""
METRICS = ("atlas-metrics-builtin:sinkhorn-divergence",)
"""Scores of the mapped points, where they are installed."""


def document_of(
    source: str, target: str, overrides: Sequence[str] = (), *, registry: Registry | None = None
) -> Document:
    """Return the config that couples two files or folders. Raises UsageError for a path that nothing opens."""
    registry = registry or default_registry()
    tables: dict[str, Any] = {
        "source": _opened(source, "source", overrides, registry),
        "target": _opened(target, "target", overrides, registry),
        "solver": {"use": SOLVER},
    }
    installed = {entry.id for entry in registry.entries("metric")}
    if metrics := [{"use": metric} for metric in METRICS if metric in installed]:
        tables["evaluate"] = {"metrics": metrics}
    applied = overriding.apply(Source("the command line", tables), overrides, transport.default_use)
    _give_kernel(applied.source.tables, registry)
    return Document(_name(source, target), applied)


def _opened(path: str, table: str, overrides: Sequence[str], registry: Registry) -> dict[str, Any]:
    """The table of a dataset that opens `path`, as the dataset itself wants it opened."""
    place = Path(path).expanduser()
    openers = _openers(registry)
    _need(place, path, openers)
    whole = str(place.absolute())  # so that config.toml finds it from any working directory
    named = [
        text.partition("=")[2].strip("'\" ") for text in overrides if text.partition("=")[0].strip() == f"{table}.use"
    ]
    if named:
        entry = registry.resolve("dataset", named[-1])
        opening = getattr(registry.load(entry), "opening", None)
        return {"use": named[-1], **(opening(whole) if opening is not None else {})}
    ending = FOLDER if place.is_dir() else place.name.lower()
    fitting = [(entry, opener) for entry, opener in openers if any(ending.endswith(each) for each in opener.opens)]
    if not fitting:
        endings = sorted({each for _, opener in openers for each in opener.opens} - {FOLDER})
        raise UsageError(
            f"nothing here opens {path}: it ends in {place.suffix or 'nothing'}", hint=_other(place, endings)
        )
    if len(fitting) > 1:
        ids = ", ".join(entry.id for entry, _ in fitting)
        raise UsageError(f"{path} can be opened by {ids}", hint=f"Say which: {table}.use={fitting[0][0].id}")
    entry, opener = fitting[0]
    return {"use": entry.id, **opener.opening(whole)}


def _openers(registry: Registry) -> list[tuple[Entry, Any]]:
    """The datasets that say which files they open; one that cannot be imported is left to `list-plugins`."""
    found = []
    for entry in registry.entries("dataset"):
        if entry.status in ("disabled", "broken", "incompatible"):
            continue
        try:
            component = registry.load(entry)
        except AtlasError:
            continue
        if getattr(component, "opens", None) and hasattr(component, "opening"):
            found.append((entry, component))
    return found


def _need(place: Path, path: str, openers: Sequence[tuple[Entry, Any]]) -> None:
    """Raise UsageError for what is not there, and for a folder that holds tables and nothing else."""
    endings = tuple({each for _, opener in openers for each in opener.opens} - {FOLDER})
    if not place.exists():
        parent = place.parent
        if not parent.is_dir():
            raise UsageError(f"there is no {path}", hint=f"There is no folder {parent}.")
        beside = [entry.name for entry in parent.iterdir() if entry.is_dir() or entry.name.lower().endswith(endings)]
        hint = did_you_mean(place.name, beside) if len(beside) <= 20 else ""
        raise UsageError(f"there is no {path}", hint=hint)
    if place.is_dir():
        inside = sorted(entry.name for entry in place.iterdir() if not entry.name.startswith("."))
        tables = [name for name in inside if name.lower().endswith(endings)]
        if tables and tables == inside:
            raise UsageError(
                f"{path} is a folder of tables: {', '.join(tables[:5])}",
                hint=f"Name one of them: {place / tables[0]}. A folder is taken for one of images.",
            )


def _other(place: Path, endings: Sequence[str]) -> str:
    if place.suffix.lower() in (".toml", ".json"):
        return f"It looks like a config: atlas-core run {place}"
    if place.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif"):
        return f"For images, name their folder: {place.parent}"
    near = did_you_mean(place.suffix.lower(), endings)
    known = f"Known: {', '.join(endings)}, and folders of images."
    return near if near.startswith("Known") or not near else f"{near} {known}"


def _give_kernel(tables: dict[str, Any], registry: Registry) -> None:
    """Give the solver our kernel, whichever solver it has become, if it takes one and has none."""
    table = tables["solver"]
    use = table.get("use") if isinstance(table, dict) else table
    if not isinstance(use, str):
        return  # its problem is said when it is resolved
    try:
        cls = config_class(registry.load(registry.resolve("solver", use)))
    except AtlasError:
        return
    field = attrs.fields_dict(cls).get("kernel") if cls is not None else None
    if field is None or field.metadata.get("kind") != "kernel":
        return
    tables["solver"] = table = {"use": use} if isinstance(table, str) else table
    given = table.get("kernel", {})
    if isinstance(given, dict) and "use" not in given:
        table["kernel"] = {**KERNEL, **given}


def _name(source: str, target: str) -> str:
    # Windows' rules know both separators, and drives.
    names = (PureWindowsPath(Path(path).absolute()).stem for path in (source, target))
    stems = [re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") for name in names]
    return "-to-".join(stem or "data" for stem in stems).lstrip("_-") or "transport"
