"""The table of a comparison: samplers by numbers of calls, from the same seeds on the same network.

Nothing here needs torch: the report reads it back from the run folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from atlas_core.engine.scores import Cell, Column, number

SCHEMA = 1


@attrs.frozen
class Entry:
    """One sampler on one grid at one number of calls, or why it cannot be."""

    contender: str
    """As it was asked for: `heun`, `euler@karras`."""
    asked: int
    """The NFE that was allowed."""
    nfe: int | None = None
    """The NFE that was used: the most that whole steps make of it."""
    steps: int | None = None
    seconds: float | None = None
    """Drawing alone, of all samples."""
    error: float | None = None
    """Root mean square, a value of a sample, of the distance from the reference; None for a stochastic sampler."""
    cells: dict[str, Cell] = attrs.field(factory=dict)
    picture: str = ""
    problem: str = ""


@attrs.frozen
class Comparison:
    """Everything that `compare` has found."""

    entries: tuple[Entry, ...]
    columns: tuple[Column, ...]
    count: int
    seed: int
    reference: str
    """What `error` is measured from."""
    picture: str = ""
    """Of the reference."""
    notes: tuple[str, ...] = ()

    @property
    def contenders(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.contender for entry in self.entries))

    @property
    def budgets(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(entry.asked for entry in self.entries))

    @property
    def measures(self) -> tuple[str, ...]:
        """What is known of the entries: `error`, then the metrics."""
        return (*(["error"] if any(e.error is not None for e in self.entries) else []), *(c.name for c in self.columns))

    def entry(self, contender: str, asked: int) -> Entry:
        """The entry of a contender at the NFE that was allowed."""
        return next(each for each in self.entries if each.contender == contender and each.asked == asked)

    def value(self, measure: str, contender: str, asked: int) -> float | None:
        """One number of the table."""
        entry = self.entry(contender, asked)
        if measure == "error":
            return entry.error
        cell = entry.cells.get(measure)
        return cell.value if cell is not None else None

    def column(self, measure: str) -> Column | None:
        """The metric of that name; None for `error`."""
        return next((each for each in self.columns if each.name == measure), None)

    def best(self, measure: str, asked: int) -> str | None:
        """The contender with the lowest value; None where lower is not better, or nothing is known."""
        column = self.column(measure)
        if column is not None and column.better != "lower":
            return None
        known = {name: v for name in self.contenders if (v := self.value(measure, name, asked)) is not None}
        return min(known, key=known.__getitem__) if known else None

    def to_json(self) -> dict[str, Any]:
        """Return what `json.dumps` can write; `from_json` reads it back."""
        return {"schema": SCHEMA, **attrs.asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Comparison:
        """Read `to_json`. Raises ValueError for another schema."""
        if data.get("schema") != SCHEMA:
            raise ValueError(f"a comparison of schema {data.get('schema')!r}; this version of Atlas reads {SCHEMA}")
        entries = tuple(
            Entry(**{**each, "cells": {name: Cell(**cell) for name, cell in each["cells"].items()}})
            for each in data["entries"]
        )
        columns = tuple(Column(**column) for column in data["columns"])
        rest = {key: data[key] for key in ("count", "seed", "reference", "picture")}
        return cls(entries=entries, columns=columns, notes=tuple(data["notes"]), **rest)

    def table(self) -> str:
        """Return a block a measure: a line a contender, a column a number of calls; a star on the best of a column."""
        width = max(len("NFE at most"), *(len(name) for name in self.contenders))
        lines: list[str] = []
        for measure in self.measures:
            lines += [*([""] if lines else []), self._title(measure)]
            lines.append("  ".join([f"{'NFE at most':{width}}", *(f"{asked:>9}" for asked in self.budgets)]).rstrip())
            for name in self.contenders:
                cells = [self._cell(measure, name, asked) for asked in self.budgets]
                lines.append("  ".join([f"{name:{width}}", *(f"{cell:>9}" for cell in cells)]).rstrip())
        problems = dict.fromkeys(f"{e.contender} at {e.asked}: {e.problem}" for e in self.entries if e.problem)
        return "\n".join([*lines, *([""] if problems or self.notes else []), *problems, *self.notes])

    def _title(self, measure: str) -> str:
        if measure == "error":
            return f"error: distance from {self.reference}, a value (root mean square; lower is better)"
        column = self.column(measure)
        assert column is not None  # of the measures, only `error` is no metric
        floor = f"; real data: {number(column.floor)}" if column.floor is not None else ""
        return f"{measure} ({column.better} is better{floor})" if column.better != "match" else f"{measure}{floor}"

    def _cell(self, measure: str, name: str, asked: int) -> str:
        star = "*" if self.best(measure, asked) == name else ""
        return number(self.value(measure, name, asked)) + star
