"""Text tables: comma-, semicolon- or tab-separated numbers, with or without a header."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from atlas_core.errors import DataError, Problem
from atlas_datasets_builtin.tables import SHOWN, Table, Wanted, chosen, refuse

Header = Literal["auto", "yes", "no"]
DELIMITERS = (";", "\t", ",")
"""In a tie the first counts: the comma of `1;2,5` is a decimal one."""
DECIMAL = "A decimal comma is not read: write 1.5, not 1,5."
MAGIC = {b"PAR1": "Parquet", b"\x93NUMPY": "NPY", b"PK\x03\x04": "NPZ or another zip", b"\x1f\x8b": "gzip"}


@attrs.frozen
class Layout:
    """How a text table is laid out."""

    delimiter: str
    names: tuple[str, ...]
    named: bool
    skip: int
    """Records before the first point: 1 with a header."""
    unnamed_index: bool = False
    """The first column has no name and counts the rows, as pandas writes it."""


def read_delimited(path: Path, wanted: Wanted, *, delimiter: str | None, header: Header) -> Table:
    """Read a text table. Raises DataError that names line and column of what is no number."""
    text = _text(path)
    layout = _layout(path, text, delimiter, header)
    names = layout.names
    positions, weights = chosen(path, names, wanted, counted=not layout.named)
    notes = []
    if layout.unnamed_index and not wanted.columns:
        positions = [position for position in positions if position != 0]
        notes.append(f"{path.name}: the first column has no name and counts the rows, so it is left out")
    columns = positions if weights is None else [*positions, weights]
    numbers = _fast(text, layout) if columns == list(range(len(names))) else None
    if numbers is None:
        numbers = _careful(path, text, layout, columns)
    if not len(numbers):
        raise DataError(f"{path} has a header and no rows", hint="Each row is a point.")
    points = numbers[:, : len(positions)]
    if whole := _whole(names, positions, points):
        notes.append(f"{path.name}: {whole} read as real numbers")
    return Table(
        names=tuple(names[position] for position in positions),
        named=layout.named,
        values=points,
        weights=None if weights is None else numbers[:, -1],
        line_of=lambda row: next(itertools.islice(_records(text, layout), row, None))[0],
        unit="line",
        notes=tuple(notes),
    )


def write_delimited(values: NDArray[np.floating], names: Sequence[str], delimiter: str) -> bytes:
    """Return (n, d) as text with as many digits as the type holds; `names` empty: without a header."""
    out = io.StringIO()
    if names:
        csv.writer(out, delimiter=delimiter, lineterminator="\n").writerow(names)
    np.savetxt(out, values, fmt="%.9g" if values.dtype == np.float32 else "%.17g", delimiter=delimiter)
    return out.getvalue().encode()


def delimiter_of(path: Path, given: str | None) -> str:
    """Return what separates the cells of an existing file."""
    return _delimiter(path, _text(path), given)


def _text(path: Path) -> str:
    raw = path.read_bytes()
    if not raw.strip():
        raise DataError(f"{path} is empty", hint="Each row is a point, each column a coordinate.")
    for magic, what in MAGIC.items():
        if raw.startswith(magic):
            raise DataError(f"{path} is not text but a {what} file", hint="Give it the ending that it should have.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problem = Problem("not UTF-8 text", file=str(path), line=line)
        raise refuse(path, [problem], 1, "Save the file as UTF-8.") from error


def _delimiter(path: Path, text: str, given: str | None) -> str:
    if given is not None:
        return given
    if path.suffix.lower() == ".tsv":
        return "\t"
    first = next(line for line in text.splitlines() if line.strip())
    return max(DELIMITERS, key=first.count)


def _layout(path: Path, text: str, delimiter: str | None, header: Header) -> Layout:
    layout = Layout(_delimiter(path, text, delimiter), (), named=False, skip=0)
    line, first = next(_records(text, layout))
    numbered = tuple(str(position + 1) for position in range(len(first)))
    numeric = [_number(cell) is not None for cell in first]
    if header == "auto":
        texts = [cell for cell, is_number in zip(first, numeric, strict=True) if not is_number and cell.strip()]
        if texts and any(numeric):
            said = f"{texts[0]!r} is no number, {first[numeric.index(True)]!r} is one"
            raise DataError(
                f"the first line of {path} may be a header, or a point with a bad cell",
                problems=[Problem(said, file=str(path), line=line)],
                hint=DECIMAL if _decimal_comma(texts) else 'Say which: header = "yes" or header = "no".',
            )
        header = "yes" if texts else "no"
    if header == "no":
        return attrs.evolve(layout, names=numbered)
    names = [cell.strip() for cell in first]
    names[0] = names[0].removeprefix("#").strip()  # as numpy.savetxt writes a header
    if repeated := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
        raise DataError(f"{path} has two columns called {repeated[0]!r}", hint="Give each column a name of its own.")
    layout = attrs.evolve(layout, names=tuple(names), named=True, skip=1)
    return attrs.evolve(layout, unnamed_index=not names[0] and _counts(text, layout))


def _counts(text: str, layout: Layout) -> bool:
    """True if the first column says 0, 1, 2, … or 1, 2, 3, …"""
    first = [cells[0].strip() for _, cells in itertools.islice(_records(text, layout), 1000)]
    return any(first == [str(start + row) for row in range(len(first))] for start in (0, 1))


def _records(text: str, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of every record that is not blank, those before the first point left out."""
    reader = csv.reader(io.StringIO(text), delimiter=layout.delimiter)
    records = ((reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells))
    yield from itertools.islice(records, layout.skip, None)


def _fast(text: str, layout: Layout) -> NDArray[np.float64] | None:
    """All columns by numpy; None if there is anything that it cannot read, which `_careful` then names."""
    stream = io.StringIO(text)
    for _ in range(layout.skip):
        while not next(stream).strip(f"{layout.delimiter} \t\r\n"):
            pass
    try:
        rest = stream.tell()
        if not stream.read().strip():
            return np.empty((0, len(layout.names)))
        stream.seek(rest)
        numbers = np.loadtxt(stream, delimiter=layout.delimiter, comments=None, quotechar='"', ndmin=2)
    except ValueError:
        return None
    return numbers if numbers.shape[1] == len(layout.names) else None


def _careful(path: Path, text: str, layout: Layout, columns: Sequence[int]) -> NDArray[np.float64]:
    """The columns, cell by cell. Raises DataError with the first bad ones."""
    rows: list[list[float]] = []
    problems: list[Problem] = []
    bad: list[tuple[int, str]] = []
    for line, cells in _records(text, layout):
        numbers = [_number(cells[column]) if column < len(cells) else None for column in columns]
        if len(cells) != len(layout.names):
            wrong = f"{len(cells)} cell{'s' if len(cells) != 1 else ''}, where the first line has {len(layout.names)}"
            problems.append(Problem(wrong, file=str(path), line=line))
        else:
            failed = [column for column, number in zip(columns, numbers, strict=True) if number is None]
            problems += [_bad_cell(path, line, layout.names[column], cells[column]) for column in failed]
            bad += [(column, cells[column]) for column in failed]
        rows.append([np.nan if number is None else number for number in numbers])
    if problems:
        raise refuse(path, problems[:SHOWN], len(problems), _advice(layout, columns, bad, len(rows)))
    return np.array(rows, dtype=np.float64).reshape(-1, len(columns))


def _bad_cell(path: Path, line: int, name: str, cell: str) -> Problem:
    shown = cell if len(cell) <= 40 else f"{cell[:39]}…"
    what = f"column {name!r} is {shown!r}, which is no number" if cell.strip() else f"column {name!r} is empty"
    return Problem(what, file=str(path), line=line)


def _advice(layout: Layout, columns: Sequence[int], bad: Sequence[tuple[int, str]], rows: int) -> str:
    """The next step: other columns where one holds text throughout, another delimiter, points for decimal commas."""
    failures = [column for column, _ in bad]
    texts = {column for column in set(failures) if failures.count(column) > rows / 2}
    numeric = [layout.names[column] for column in columns if column not in texts]
    if _decimal_comma(cell for _, cell in bad):
        return DECIMAL
    if texts and numeric:
        return f"Take the columns that hold numbers: columns = {_toml(numeric)}."
    if len(layout.names) == 1 and any(_number(cell.split()[0]) is not None for _, cell in bad if cell.strip()):
        return 'Are the cells separated by something else? As in delimiter = " ".'
    return "Every cell of a column that is used must be a number, written as 1.5 or 2e-3."


def _decimal_comma(cells: Iterable[str]) -> bool:
    return any(_number(cell.replace(",", ".")) is not None for cell in cells)


def _toml(names: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names[:20]) + (", …" if len(names) > 20 else "") + "]"


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _whole(names: Sequence[str], positions: Sequence[int], points: NDArray[np.float64]) -> str:
    """Say which columns hold whole numbers; empty if none does."""
    with np.errstate(invalid="ignore"):
        whole = [column for column in range(points.shape[1]) if (points[:, column] % 1 == 0).all()]
    if len(whole) == len(positions) > 1:
        return "all columns hold whole numbers,"
    shown = ", ".join(repr(names[positions[column]]) for column in whole[:5]) + (", …" if len(whole) > 5 else "")
    return f"whole numbers in {shown}," if whole else ""
