"""Keep the numbers of a run, one JSON object a line, so that no step appears twice however often it is resumed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atlas_core.runs.atomic import saying, write_atomically


class Journal:
    """Appends to `metrics.jsonl`; each line has the `step` after which it was written, steps increase."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, step: int, numbers: Mapping[str, Any], *, intact: str = "") -> None:
        """Write one line and hand it to the operating system. A number that is not finite is written as null."""
        line = json.dumps({"step": step, **{name: finite(value) for name, value in numbers.items()}}, allow_nan=False)
        with saying(self.path, intact), self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def sync(self) -> None:
        """Wait until the lines are on the disk: a checkpoint must not be newer than they are."""
        if self.path.exists():
            with saying(self.path), self.path.open("rb") as file:
                os.fsync(file.fileno())

    def rewind(self, step: int) -> None:
        """Drop the lines after `step`, and a line that a kill cut short: the run goes on from that step."""
        if not self.path.exists():
            return
        text = self.path.read_text(encoding="utf-8", errors="replace")
        kept = "".join(json.dumps(row) + "\n" for row in _rows(text) if row["step"] <= step)
        if kept != text:
            write_atomically(self.path, kept)

    def rows(self) -> list[dict[str, Any]]:
        """Return every whole line, oldest first; an empty list where nothing was written yet."""
        return _rows(self.path.read_text(encoding="utf-8", errors="replace")) if self.path.exists() else []


def finite(value: Any) -> Any:
    """Return what JSON can hold: NaN and infinity have no number there."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rows(text: str) -> list[dict[str, Any]]:
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # the writer was killed inside this line
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows
