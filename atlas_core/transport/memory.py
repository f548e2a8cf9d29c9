"""How much memory a piece of work took on top of what was there before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import attrs
import torch


@attrs.define
class Peak:
    """The highest use above that at the start, in bytes; None where the system does not tell."""

    bytes: int | None = None


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure what the block takes at its highest: on a GPU what torch allocates, else resident memory (Linux)."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak of the process starts anew: proc(5)
    at_start = _status()
    yield peak
    if at_start and (now := _status()):
        peak.bytes = max(now["VmHWM"] - at_start["VmRSS"], 0)


def available_memory() -> int | None:
    """Bytes that this process could take now: what is free, within its limits and its container's; None if unknown."""
    known = [free for free in (_free(), _within_container(), _within_limit()) if free is not None]
    return max(min(known), 0) if known else None


def _free() -> int | None:
    lines = _lines(Path("/proc/meminfo"))
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _within_container() -> int | None:
    """What a control group (version 2) leaves; a container sees the memory of its host in /proc."""
    limit, used = (_lines(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    return int(limit[0]) - int(used[0]) if limit and used and limit[0].isdigit() else None


def _within_limit() -> int | None:
    """What `ulimit -v` leaves."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return None
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    size = next(
        (int(line.split()[1]) * 1024 for line in _lines(Path("/proc/self/status")) if line.startswith("VmSize:")), 0
    )
    return None if soft == resource.RLIM_INFINITY else soft - size


def _status() -> dict[str, int]:
    """VmRSS and VmHWM of this process, in bytes; empty where there is no /proc."""
    parts = (line.split() for line in _lines(Path("/proc/self/status")) if line.startswith(("VmRSS:", "VmHWM:")))
    return {name.rstrip(":"): int(value) * 1024 for name, value, _ in parts}


def _lines(path: Path) -> list[str]:
    """The lines of a file of the kernel's; none where the system has no such file."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
