"""Remembers what the last check of each plugin found, so that a listing can say it without importing anything.

A verdict belongs to one install: distribution, version, place, Python, and the hash of RECORD. Of an editable install
the newest change of its sources counts, too: its RECORD never changes.
"""

from __future__ import annotations

import json
import os
import sys
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from atlas_core.plugins.scan import Entry, Installed

SCHEMA = 1


class Verdict(NamedTuple):
    """What a check found out about one entry."""

    status: str
    """ok, broken or slow."""
    reason: str = ""
    supplied: tuple[tuple[str, str, str], ...] = ()
    """Kind, name and target of the components that a hooks module supplies."""


def cache_file() -> Path:
    """Return where verdicts are kept: `$XDG_CACHE_HOME/atlas/plugins.json`, by default under `~/.cache`."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    return Path(folder if Path(folder).is_absolute() else os.path.expanduser("~/.cache")) / "atlas" / "plugins.json"  # noqa: PTH111 - never raises


class Verdicts:
    """The cache. It never keeps a command from working: what goes wrong with the file is a line in `notes`."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_file()
        self.notes: list[str] = []
        self._installs: dict[str, Any] | None = None
        self._fingerprints: dict[str, str] = {}

    def of(self, installed: Installed) -> dict[str, Verdict]:
        """Return the verdicts on an install's entries, by `key`; empty if it was never checked or changed since."""
        known = self._read().get(_place(installed))
        if known is None:
            return {}
        try:
            if known["fingerprint"] != self.fingerprint(installed):
                return {}
            return {
                key: Verdict(status, reason, tuple((kind, name, target) for kind, name, target in supplied))
                for key, (status, reason, supplied) in known["verdicts"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.notes.append(
                f"the verdict on {_place(installed)} is forgotten: {self.path} is damaged ({type(error).__name__})"
            )
            return {}

    def put(self, installed: Installed, verdicts: dict[str, Verdict]) -> None:
        """Replace the verdicts on an install; `save` makes them last."""
        self._read()[_place(installed)] = {"fingerprint": self.fingerprint(installed), "verdicts": verdicts}

    def fingerprint(self, installed: Installed) -> str:
        """Return what identifies this install, as it was when first asked for."""
        place = _place(installed)
        if place not in self._fingerprints:
            self._fingerprints[place] = _hash(installed)
        return self._fingerprints[place]

    def save(self) -> None:
        """Write the cache, through a temporary name."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps({"schema": SCHEMA, "installs": self._read()}), encoding="utf-8")
            temporary.replace(self.path)
        except OSError as error:
            self.notes.append(f"verdicts are not remembered: {self.path} cannot be written ({error.strerror})")

    def _read(self) -> dict[str, Any]:
        if self._installs is None:
            self._installs = {}
            try:
                content = json.loads(self.path.read_text(encoding="utf-8"))
                if content["schema"] == SCHEMA:
                    self._installs = dict(content["installs"])
            except FileNotFoundError:
                pass
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.notes.append(f"verdicts are forgotten: {self.path} cannot be read ({type(error).__name__})")
        return self._installs


def key(entry: Entry) -> str:
    """Return what tells the entries of one install apart."""
    return f"{entry.kind}/{entry.name}={entry.target}"


def _hash(installed: Installed) -> str:
    """Return a hash that changes when the install, its sources or the Python under it do."""
    record = installed.distribution.read_text("RECORD") or installed.metadata
    parts = [sys.version, installed.version, record, *map(key, installed.entries)]
    if "_editable_" in record:
        parts += [
            str(_newest_source(top))
            for top in sorted({e.target.partition(":")[0].partition(".")[0] for e in installed.entries})
        ]
    return blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()


def _newest_source(package: str) -> int:
    try:
        spec = find_spec(package) if package.isidentifier() else None  # of a top-level name: imports nothing
    except (ImportError, ValueError):
        return 0
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in Path(folder).rglob("*.py")]
    if spec and spec.origin and not folders:
        files = [Path(spec.origin)]
    return max((file.stat().st_mtime_ns for file in files if file.exists()), default=0)


def _place(installed: Installed) -> str:
    return f"{installed.provider} in {installed.location}"
