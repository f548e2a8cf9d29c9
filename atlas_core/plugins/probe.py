"""The inside of a check: imports plugins in processes that are there to be broken.

`check` starts one process, which imports what is heavy and no plugin's fault (torch) once, and then isolates every
distribution in a copy of itself. Each finding is a line of JSON in a file, so that what is known survives the process;
whatever a plugin prints goes elsewhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from atlas_core.plugins.failures import LoadError, describe_error
from atlas_core.plugins.hookspecs import COLLECTED, call_one, plugin_manager, register, supplied
from atlas_core.plugins.kinds import HOOKS
from atlas_core.plugins.loading import load_target
from atlas_core.plugins.shield import protect

# Forking saves an import of torch a distribution. Elsewhere it is missing, or unsafe once system libraries are loaded.
CAN_FORK = sys.platform == "linux"
CHILD = """
import json, sys
job = json.load(sys.stdin)
sys.path[:] = job["path"]
from atlas_core.plugins.probe import run
run(job)
"""


def run(job: dict[str, Any]) -> None:
    """Probe each of the job's `groups` of [kind, name, target] on its own; group i writes `i.jsonl` and `i.end`.

    `folder`: where to; `path`: sys.path; `preload`: modules that no plugin answers for; `seconds`: limit of a group.
    """
    protect()
    folder = Path(job["folder"])
    isolated = _in_fork if CAN_FORK else _in_process
    if CAN_FORK or "inline" in job:
        for module in job["preload"]:
            with suppress(Exception):  # what is wrong with it shows where a plugin needs it
                __import__(module)
    for index, entries in enumerate(job["groups"]):
        if "inline" in job:
            probe_all(entries, folder / f"{job['inline']}.jsonl")
        else:
            end = isolated(job, index, entries)
            (folder / f"{index}.end").write_text(end, encoding="utf-8")


def _in_fork(job: dict[str, Any], index: int, entries: Sequence[Sequence[str]]) -> str:
    results = Path(job["folder"], f"{index}.jsonl")
    errors = results.with_suffix(".err")
    child = os.fork()
    if child == 0:
        try:
            with errors.open("wb") as file:
                os.dup2(file.fileno(), 2)
            probe_all(entries, results)
        finally:
            os._exit(0)
    deadline = time.monotonic() + job["seconds"]
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return _ending(os.waitstatus_to_exitcode(status), errors.read_bytes())
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return _overdue(job)


def _in_process(job: dict[str, Any], index: int, entries: Sequence[Sequence[str]]) -> str:
    inner = {**job, "groups": [entries], "inline": index}
    command = [sys.executable, "-c", CHILD]
    try:
        done = subprocess.run(command, input=json.dumps(inner).encode(), capture_output=True, timeout=job["seconds"])
    except subprocess.TimeoutExpired:
        return _overdue(job)
    return _ending(done.returncode, done.stderr)


def _ending(code: int, stderr: bytes) -> str:
    last_words = stderr.decode(errors="replace").strip().splitlines()[-1:]
    return ": ".join([f"importing it ends the process with code {code}", *last_words])


def _overdue(job: dict[str, Any]) -> str:
    return f"importing it takes more than {job['seconds']:.0f} s"


def probe_all(entries: Sequence[Sequence[str]], results: Path) -> None:
    """Import the entries one after the other, in this process, and write a finding on each."""
    with results.open("a", encoding="utf-8") as file, tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 1)  # also what C code and sub-processes print
        for kind, name, target in entries:
            finding = _probe(kind, name, target)
            finding["printed"] = _take(printed)
            file.write(json.dumps(finding) + "\n")
            file.flush()


def _probe(kind: str, name: str, target: str) -> dict[str, Any]:
    finding: dict[str, Any] = {"kind": kind, "name": name, "target": target, "error": "", "supplied": [], "file": None}
    start = time.perf_counter()
    try:
        loaded = load_target(kind, target)
        finding["seconds"] = time.perf_counter() - start
        finding["file"] = getattr(sys.modules[target.partition(":")[0]], "__file__", None)
        if kind == HOOKS:
            finding["supplied"] = _collect(loaded)
    except LoadError as error:
        finding["error"] = str(error)
    except Exception as error:  # noqa: BLE001 - a plugin's metaclass or __getattr__ may raise anything; it is reported
        finding["error"] = describe_error(error)
    finding.setdefault("seconds", time.perf_counter() - start)
    return finding


def _collect(module: ModuleType) -> list[tuple[str, str, str]]:
    manager = plugin_manager()
    register(manager, module, "checked")
    for hook in COLLECTED:
        call_one(manager, hook, "checked")
    return [(kind, spec.name, spec.target) for kind, spec in supplied(manager, "checked")]


def _take(printed: BinaryIO) -> str:
    """Return what was printed since the last call."""
    sys.stdout.flush()
    # Descriptor 1 shares this file's position, so it stands where the printing stopped.
    end = printed.seek(0, os.SEEK_CUR)
    printed.seek(0)
    text = printed.read(min(end, 200)).decode(errors="replace").strip()
    printed.seek(0)
    printed.truncate()
    return text
