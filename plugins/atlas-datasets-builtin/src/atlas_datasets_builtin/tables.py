"""Points as a file holds them: which columns count, and what is wrong with which cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from atlas_core.errors import DataError, Problem

SHOWN = 5
"""Bad cells that an error lists; the rest are counted."""


@attrs.frozen
class Wanted:
    """What the user asked for of a file; empty and None: all of it."""

    columns: tuple[str, ...] = ()
    weights: str | None = None


@attrs.frozen(eq=False)
class Table:
    """The columns of a file that count, as numbers."""

    names: tuple[str, ...]
    """Of the coordinates, in their order; where the file has none, their numbers from 1."""
    named: bool
    """Whether the file itself has names."""
    values: NDArray[np.float64] = attrs.field(repr=False)
    """(n, d)."""
    weights: NDArray[np.float64] | None = attrs.field(repr=False)
    """(n,), as they stand in the file."""
    line_of: Callable[[int], int]
    """From a row, counted from 0, to what the user would look for: the line of a text file, else the row from 0."""
    unit: str
    """`line`, or `row`."""
    item: tuple[int, ...] = ()
    """Shape of one item where the file says it, as an array of images does."""
    notes: tuple[str, ...] = ()


def chosen(path: Path, names: Sequence[str], wanted: Wanted, *, counted: bool = False) -> tuple[list[int], int | None]:
    """Return the positions of the coordinates, and of the weights, among the columns of a file.

    `counted`: the names are numbers that we gave. Raises DataError for a column that is not there.
    """
    for name in (*wanted.columns, *((wanted.weights,) if wanted.weights is not None else ())):
        if name not in names:
            near = get_close_matches(name, names, n=1)
            many = len(names)
            known = f"1 to {many}" if counted else ", ".join(names[:20]) + (", …" if many > 20 else "")
            hint = f"Did you mean {near[0]!r}?" if near and not counted else f"It has: {known}."
            why = " (it has no header, so its columns are numbered)" if counted else ""
            raise DataError(f"{path} has no column {name!r}{why}", hint=hint)
    weights = None if wanted.weights is None else list(names).index(wanted.weights)
    if wanted.columns:
        return [list(names).index(name) for name in wanted.columns], weights
    positions = [position for position in range(len(names)) if position != weights]
    if not positions:
        raise DataError(f"{path} holds weights alone", hint="A point needs a coordinate: give it other columns.")
    return positions, weights


def refuse(path: Path, problems: Sequence[Problem], count: int, hint: str = "") -> DataError:
    """Return the error that lists the first problems of a file."""
    more = f"; the first {len(problems)} of {count}" if count > len(problems) else ""
    return DataError(f"{path} cannot be read as points{more}", problems=problems, hint=hint)


def check_finite(path: Path, table: Table) -> None:
    """Raise DataError that names the rows with NaN or infinity, or with a weight that is no mass."""
    bad_cells = np.argwhere(~np.isfinite(table.values))
    if len(bad_cells):
        problems = [
            _problem(path, table, int(row), f"column {table.names[column]!r} is {table.values[row, column]}")
            for row, column in bad_cells[:SHOWN]
        ]
        rows = len({int(row) for row, _ in bad_cells})
        hint = f"Points must be finite: leave out the {rows} row{'s' if rows > 1 else ''}, or fill the cells."
        raise refuse(path, problems, len(bad_cells), hint)
    if table.weights is None:
        return
    bad = np.flatnonzero(~(np.isfinite(table.weights) & (table.weights >= 0)))
    if len(bad):
        problems = [_problem(path, table, int(row), f"the weight is {table.weights[row]}") for row in bad[:SHOWN]]
        raise refuse(path, problems, len(bad), "Weights are masses: finite, and 0 or more.")
    if not table.weights.sum() > 0:
        raise DataError(f"every weight of {path} is 0", hint="Some point has to have a mass.")


def _problem(path: Path, table: Table, row: int, message: str) -> Problem:
    place = table.line_of(row)
    if table.unit == "line":
        return Problem(message, file=str(path), line=place)
    return Problem(f"row {place}: {message}", file=str(path))
