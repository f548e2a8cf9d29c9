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
    """Bytes that could be allocated now without swapping; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _status() -> dict[str, int]:
    """VmRSS and VmHWM of this process, in bytes; empty where there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    parts = (line.split() for line in lines if line.startswith(("VmRSS:", "VmHWM:")))
    return {name.rstrip(":"): int(value) * 1024 for name, value, _ in parts}
