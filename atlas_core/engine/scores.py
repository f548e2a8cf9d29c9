"""The table of scores: contenders by metrics, what each cell is computed from, and what it means in plain words.

Nothing here needs torch: the report reads a table back from the run folder.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import attrs

from atlas_core.contracts.metric import MetricResult

SCHEMA = 1
WIDTH = 100
"""Columns of a terminal that the text of a table keeps to."""

_LEVELS = {"lower": (0.15, 0.6), "match": (0.1, 0.4), "higher": (0.05, 0.2)}
"""Largest relative distance from real data that is close, and near."""


@attrs.frozen
class Cell:
    """A metric's result, or the reason why there is none."""

    value: float | None = None
    n: int = 0
    """Generated samples that the value is computed from."""
    features: str = ""
    details: dict[str, float] = attrs.field(factory=dict)
    error: str = ""
    failed: bool = False
    """The metric raised what no contract foresees: the error is its own, not its word about the data."""

    @classmethod
    def of(cls, result: MetricResult) -> Cell:
        if not math.isfinite(result.value):
            return cls(None, result.n, result.features, error=f"the value is {result.value}")
        details = {name: float(number) for name, number in result.details.items() if math.isfinite(number)}
        return cls(float(result.value), int(result.n), result.features, details)


@attrs.frozen
class Column:
    """One metric with its settings."""

    name: str
    better: str
    """`lower`, `higher`, or `match`: the nearer to the floor the better."""
    floor: float | None = None
    """What real data reach: the metric's own reference, or the training split in place of the samples."""
    config: dict[str, Any] = attrs.field(factory=dict)
    summary: str = ""
    component: str = ""
    """Full id and version, where it came from the config."""


@attrs.frozen
class Row:
    """One contender: the model, the training split in its place, or a baseline."""

    name: str
    kind: Literal["ours", "floor", "baseline"]
    n: int
    seconds: float
    """Drawing and scoring together."""
    cells: dict[str, Cell]
    """By the name of the column."""
    error: str = ""
    """Why there is nothing to score: what the baseline raised."""
    component: str = ""
    """Full id and version of a baseline, where it came from the config."""


@attrs.frozen
class Verdict:
    """What one of our scores says, in words that need no colour."""

    level: Literal["close", "near", "far", "none"]
    text: str
    beats: tuple[str, ...] = ()
    """Baselines that are further from real data."""


@attrs.frozen
class Evaluation:
    """All scores of one model, with everything needed to judge them."""

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    count: int
    split: str
    held_out: int
    train: int
    seed: int
    seconds: float
    notes: tuple[str, ...] = ()
    parts: tuple[dict[str, Any], ...] = ()
    """Dataset, metrics and baselines as a lock names them, where they came from a config."""

    def to_json(self) -> dict[str, Any]:
        """Return what `json.dumps` can write; `from_json` reads it back."""
        return {"schema": SCHEMA, **attrs.asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """Read `to_json`. Raises ValueError for another schema."""
        if data.get("schema") != SCHEMA:
            raise ValueError(f"an evaluation of schema {data.get('schema')!r}; this version of Atlas reads {SCHEMA}")
        rows = tuple(
            Row(**{**row, "cells": {name: Cell(**cell) for name, cell in row["cells"].items()}}) for row in data["rows"]
        )
        rest = {key: value for key, value in data.items() if key not in ("schema", "rows", "columns", "notes", "parts")}
        columns = tuple(Column(**column) for column in data["columns"])
        texts: dict[str, Any] = {name: tuple(data.get(name, ())) for name in ("notes", "parts")}
        return cls(rows=rows, columns=columns, **texts, **rest)

    def verdict(self, column: Column) -> Verdict:
        """Say how near our score in `column` is to real data, and which baselines are further off."""
        ours = next((row.cells[column.name].value for row in self.rows if row.kind == "ours"), None)
        if ours is None or column.floor is None:
            return Verdict("none", "no score" if ours is None else "no floor to compare with")
        own = gap(column, ours)
        beats = tuple(
            row.name
            for row in self.rows
            if row.kind == "baseline"
            and (theirs := row.cells[column.name].value) is not None
            and gap(column, theirs) > own
        )
        close, near = _LEVELS.get(column.better, _LEVELS["match"])
        level: Literal["close", "near", "far"] = "close" if own <= close else "near" if own <= near else "far"
        return Verdict(level, words(column, ours), beats)

    def named(self, metrics: Sequence[str], baselines: Sequence[str]) -> Evaluation:
        """Return the table with the full id and version of each metric and baseline, in their order."""
        ids = iter(baselines)
        rows = [attrs.evolve(row, component=next(ids)) if row.kind == "baseline" else row for row in self.rows]
        columns = [attrs.evolve(column, component=each) for column, each in zip(self.columns, metrics, strict=True)]
        return attrs.evolve(self, rows=tuple(rows), columns=tuple(columns))

    @property
    def failures(self) -> tuple[str, ...]:
        """One line for each metric or baseline that raised what no contract foresees."""
        said = [
            f"metric {column.component or column.name} failed: {row.cells[column.name].error}"
            for column in self.columns
            for row in self.rows
            if row.cells[column.name].failed
        ]
        said += [f"baseline {row.component or row.name} failed: {row.error}" for row in self.rows if row.error]
        return tuple(dict.fromkeys(said))

    def table(self, width: int = WIDTH) -> str:
        """Return the scores as text of at most `width` columns: a line a metric, a column a contender.

        Below a contender stands its number of samples, below a score the number it is computed from where that is less.
        """
        text = [*self._grid(width), ""]
        for column in self.columns:
            text += _wrapped(f"{column.name} ({_wish(column)}): {self.verdict(column).text}", width)
        for column in self.columns:
            errors = [cell for row in self.rows if not row.error and (cell := row.cells[column.name]).error]
            for error in dict.fromkeys(cell.error for cell in errors if not cell.failed):
                text += _wrapped(f"{column.name} has no score: {error}", width)
        for line in (*self.failures, *self.notes):
            text += _wrapped(line, width)
        return "\n".join(text)

    def _grid(self, width: int) -> list[str]:
        names = [["metric"], *(_broken(column.name, 32) for column in self.columns)]
        columns = [
            [
                [*_broken(row.name, 10), f"({row.n})"],
                *(_cell(row.cells[column.name], row.n) for column in self.columns),
            ]
            for row in self.rows
        ]
        columns.insert(1, [["real", "data"], *([number(column.floor)] for column in self.columns)])
        lines: list[str] = []
        # Contenders that find no room stand below, beside the metrics' names again.
        while columns:
            block = [names]
            while columns and (len(block) == 1 or _width([*block, columns[0]]) <= width):
                block.append(columns.pop(0))
            lines += [*([""] if lines else []), *_side_by_side(block)]
        return lines


def gap(column: Column, value: float) -> float:
    """Distance of a score from the floor, relative to the floor; 0 for a score that is better than real data."""
    assert column.floor is not None
    above = value - column.floor
    if column.better == "higher":
        above = max(-above, 0.0)
    elif column.better == "lower":
        above = max(above, 0.0)
    scale = abs(column.floor)
    return abs(above) / scale if scale > 0 else (math.inf if above else 0.0)


def words(column: Column, value: float) -> str:
    """Say where a score lies beside that of real data."""
    assert column.floor is not None
    own, above = gap(column, value), value > column.floor
    if own == 0:
        return "as good as real data" if column.better != "match" else "the same as real data"
    if own == math.inf or (column.floor < 0 and above):  # an unbiased distance of equal laws: no ratio means anything
        return f"{number(value)} where real data have {number(column.floor)}"
    if own > 1 and above:
        return f"{value / column.floor:.3g} times that of real data"
    percent = f"{100 * own:.2g}" if own < 0.1 else f"{100 * own:.0f}"
    return f"{percent} % {'above' if above else 'below'} real data"


def number(value: float | None) -> str:
    """Write a score with four significant digits; an em dash where there is none."""
    return "—" if value is None else f"{value:.4g}"


def _wish(column: Column) -> str:
    return {"lower": "lower is better", "higher": "higher is better"}.get(column.better, "near real data is better")


def _cell(cell: Cell, n: int) -> list[str]:
    return [number(cell.value)] if cell.n in (0, n) else [number(cell.value), f"(n {cell.n})"]


def _broken(name: str, most: int) -> list[str]:
    """Break a name at spaces and after hyphens into lines of at most `most`."""
    return textwrap.wrap(name, most) or [""]


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ")


def _width(block: Sequence[Sequence[Sequence[str]]]) -> int:
    return sum(max(len(line) for cell in column for line in cell) for column in block) + 2 * (len(block) - 1)


def _side_by_side(block: Sequence[Sequence[Sequence[str]]]) -> Iterator[str]:
    """Yield the lines of columns of cells of lines; the heads stand on the line below them."""
    widths = [max(len(line) for cell in column for line in cell) for column in block]
    for number_of, cells in enumerate(zip(*block, strict=True)):
        height = max(len(cell) for cell in cells)
        for i in range(height):
            at = [i - (height - len(cell)) if number_of == 0 else i for cell in cells]
            parts = [cell[k] if 0 <= k < len(cell) else "" for cell, k in zip(cells, at, strict=True)]
            yield "  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
