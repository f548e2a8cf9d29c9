"""Verifies installed plugins by importing each distribution in a process of its own, within a time limit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from atlas_core.plugins.kinds import HOOKS, UNKNOWN
from atlas_core.plugins.policy import admit, usable
from atlas_core.plugins.registry import Registry
from atlas_core.plugins.scan import Entry, Installed
from atlas_core.plugins.verdicts import Verdict, key

_Named = tuple[str, str, str]
# atlas-core brings torch, so a plugin need not name it; the time that torch takes to import is not the plugin's.
_TORCH = re.compile(r"^Requires-Dist:\s*(?:torch|atlas[-_.]core)\b(?![-_.]\w)", re.MULTILINE | re.IGNORECASE)


class Limits(NamedTuple):
    """How patient a check is."""

    slow_seconds: float = 4.0
    """An import that takes longer makes a plugin `slow`; what torch itself takes counts for hooks modules only."""
    seconds: float = 60.0
    """A distribution that needs longer is stopped, and broken."""


PATIENCE = Limits()


def check(registry: Registry, provider: str | None = None, limits: Limits = PATIENCE) -> tuple[Entry, ...]:
    """Import every plugin that may take part, remember the verdicts, and return the listing with them.

    A plugin can exit, print, hang, or take its process down: the check goes on, and says which.
    """
    chosen = {one: _checkable(one, registry) for one in registry.installed if provider in (None, one.provider)}
    chosen = {one: entries for one, entries in chosen.items() if entries}
    for installed in chosen:
        registry.verdicts.fingerprint(installed)  # of what is imported now, should a file change meanwhile
    modules = _probe({one: [e for e in entries if e[0] == HOOKS] for one, entries in chosen.items()}, [], limits)
    components = {
        one: [entry for entry in entries if entry[0] != HOOKS] + [tuple(s) for f in modules[one] for s in f["supplied"]]
        for one, entries in chosen.items()
    }
    heavy = {one: entries for one, entries in components.items() if _TORCH.search(one.metadata)}
    light = {one: entries for one, entries in components.items() if one not in heavy}
    with ThreadPoolExecutor() as pool:
        rest = pool.submit(_probe, light, [], limits)
        findings = {**_probe(heavy, ["torch"], limits), **rest.result()}
    for installed in chosen:
        found = modules[installed] + findings[installed]
        registry.verdicts.put(installed, {_key(each): _verdict(each, installed, limits) for each in found})
    registry.verdicts.save()
    return registry.listing()


def _checkable(installed: Installed, registry: Registry) -> list[_Named]:
    rows = usable(admit(installed.entries, registry.policy))
    return [(row.kind, row.name, row.target) for row in rows if row.kind != UNKNOWN]


def _probe(
    waiting: dict[Installed, list[_Named]], preload: Sequence[str], limits: Limits
) -> dict[Installed, list[dict[str, Any]]]:
    """Return a finding on each entry. One that takes its process down is blamed; those after it get another process."""
    findings: dict[Installed, list[dict[str, Any]]] = {one: [] for one in waiting}
    while waiting := {one: entries for one, entries in waiting.items() if entries}:
        for (one, entries), (done, end) in zip(
            waiting.items(), _run([*waiting.values()], preload, limits), strict=True
        ):
            findings[one] += done
            if len(done) < len(entries):
                kind, name, target = entries[len(done)]
                findings[one].append({"kind": kind, "name": name, "target": target, "error": end, "supplied": []})
            waiting[one] = entries[len(done) + 1 :]
    return findings


def _run(
    groups: Sequence[Sequence[_Named]], preload: Sequence[str], limits: Limits
) -> list[tuple[list[dict[str, Any]], str]]:
    """Let one process probe the groups; return the findings of each, and how it ended."""
    from atlas_core.plugins.probe import CHILD

    with tempfile.TemporaryDirectory(prefix="atlas-check-") as folder:
        job = {"path": sys.path, "folder": folder, "groups": groups, "preload": preload, "seconds": limits.seconds}
        done = subprocess.run([sys.executable, "-c", CHILD], input=json.dumps(job).encode(), capture_output=True)
        if done.returncode and preload:
            return _run(groups, [], limits)  # torch itself ends the process: let each plugin that needs it say so
        if done.returncode:
            raise RuntimeError(f"the check itself failed:\n{done.stderr.decode(errors='replace')}")
        outcomes = []
        for index in range(len(groups)):
            results = Path(folder, f"{index}.jsonl")
            lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
            end = results.with_suffix(".end").read_text(encoding="utf-8")
            outcomes.append(([json.loads(line) for line in lines], end))
    return outcomes


def _key(finding: dict[str, Any]) -> str:
    return key(Entry(finding["kind"], finding["name"], "", "", finding["target"]))


def _verdict(finding: dict[str, Any], installed: Installed, limits: Limits) -> Verdict:
    supplied = tuple((kind, name, target) for kind, name, target in finding["supplied"])
    if finding["error"]:
        return Verdict("broken", finding["error"])
    if finding["printed"]:
        return Verdict("broken", f"prints at import: {finding['printed']!r:.60}", supplied)
    elsewhere = _imported_elsewhere(finding, installed)
    if elsewhere:
        return Verdict("broken", elsewhere, supplied)
    if finding["seconds"] > limits.slow_seconds:
        return Verdict("slow", f"takes {finding['seconds']:.1f} s to import", supplied)
    return Verdict("ok", "", supplied)


def _imported_elsewhere(finding: dict[str, Any], installed: Installed) -> str:
    """Say that Python imports another file than the one that this install wrote: a copy comes before it on sys.path."""
    module = finding["target"].partition(":")[0].replace(".", "/")
    record = installed.distribution.read_text("RECORD") or ""
    for line in record.splitlines():
        file = line.partition(",")[0]
        if file in (f"{module}.py", f"{module}/__init__.py"):
            ours = Path(str(installed.distribution.locate_file(file)))
            if finding["file"] is None or not ours.exists() or not ours.samefile(finding["file"]):
                where = finding["file"] or "an empty namespace package"
                return f"Python imports {where}, which shadows {ours} of {installed.provider} {installed.version}"
    return ""
