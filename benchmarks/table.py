"""What the benchmarks share: one table for people, one JSON object for machines, and the facts of the machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any


def arguments(doc: str) -> argparse.ArgumentParser:
    """Return a parser that has `--json` and `--threads`, with a script's docstring as its help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of torch")
    return parser


def report(benchmark: str, rows: Sequence[Mapping[str, Any]], *, threads: int, as_json: bool) -> None:
    """Print the rows, which all have the same keys."""
    import torch

    machine = {"python": platform.python_version(), "torch": torch.__version__, "threads": threads, "cpu": _cpu()}
    if as_json:
        print(json.dumps({"schema": 1, "benchmark": benchmark, "machine": machine, "rows": list(rows)}))
        return
    print(f"{benchmark}: {', '.join(f'{key} {value}' for key, value in machine.items())}\n")
    cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - one line of a pseudo file
            return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
