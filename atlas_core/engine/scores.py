"""The table of scores: contenders by metrics, what each cell is computed from, and what it means in plain words.

Nothing here needs torch: the report reads a table back from the run folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import attrs

from atlas_core.contracts.metric import MetricResult

SCHEMA = 1

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
        rest = {key: value for key, value in data.items() if key not in ("schema", "rows", "columns", "notes")}
        columns = tuple(Column(**column) for column in data["columns"])
        return cls(rows=rows, columns=columns, notes=tuple(data.get("notes", ())), **rest)

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

    def table(self) -> str:
        """Return the scores as text: one line a contender, one column a metric, the number of samples in brackets."""
        head = [["", *(column.name for column in self.columns)], ["", *(_wish(column) for column in self.columns)]]
        body = [
            [f"{row.name} ({row.n})", *(_cell(row.cells[column.name], row.n) for column in self.columns)]
            for row in self.rows
        ]
        floors = [["real data", *(number(column.floor) for column in self.columns)]]
        lines = [*head, *body, *floors]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        text += ["", *(f"{column.name}: {self.verdict(column).text}" for column in self.columns)]
        errors = {cell.error: name for row in self.rows for name, cell in row.cells.items() if cell.error}
        text += [f"{name} has no score: {error}" for error, name in errors.items()]
        return "\n".join([*text, *self.notes])


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
    if own == math.inf:
        return f"{number(value)} where real data have 0"
    if own > 1 and above:
        return f"{value / column.floor:.3g} times that of real data"
    percent = f"{100 * own:.2g}" if own < 0.1 else f"{100 * own:.0f}"
    return f"{percent} % {'above' if above else 'below'} real data"


def number(value: float | None) -> str:
    """Write a score with four significant digits; an em dash where there is none."""
    return "—" if value is None else f"{value:.4g}"


def _wish(column: Column) -> str:
    return {"lower": "lower is better", "higher": "higher is better"}.get(column.better, "near real data is better")


def _cell(cell: Cell, n: int) -> str:
    return number(cell.value) if cell.n in (0, n) else f"{number(cell.value)} (n {cell.n})"
