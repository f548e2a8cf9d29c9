"""Points in binary files: NumPy arrays, alone or several in an archive, and Parquet tables."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atlas_core.errors import DataError, Problem
from atlas_datasets_builtin.tables import SHOWN, Table, Wanted, chosen, refuse

PARQUET = 'pip install "atlas-datasets-builtin[parquet]"'
"""What brings pyarrow."""


def read_numpy(path: Path, wanted: Wanted, *, key: str | None) -> Table:
    """Read an .npy file, or the array `key` of an .npz: (n,), (n, d), or (n, *item) as of images.

    Raises DataError for what holds no numbers; nothing is ever unpickled.
    """
    name = path.name
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded as archive:
                key = _key(path, archive.files, key)
                array, name = archive[key], f"{name}[{key}]"
        else:
            array = loaded
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        if "pickle" in str(error):
            message = f"{path} holds Python objects, which Atlas never unpickles"
            raise DataError(message, hint="Save an array of numbers: numpy.save(path, array.astype(float)).") from error
        raise DataError(f"{path} is empty, cut off or no NumPy file: {error}") from error
    if array.dtype.names:
        fields = {each: array[each] for each in array.dtype.names}
        return _table(path, {each: _real(path, each, values) for each, values in fields.items()}, wanted, [])
    if array.ndim == 0:
        raise DataError(f"{path} holds a single number", hint="Points are an array (n, d), one row a point.")
    if not array.size:
        raise DataError(f"{path} holds no number: its shape is {array.shape}", hint="Each row is a point.")
    values, notes = _converted(path, name, array)
    item = array.shape[1:] if array.ndim > 2 else ()
    if array.ndim == 1:
        notes.append(f"{name}: an array of shape {array.shape} is read as {len(array)} points of one coordinate")
    flat = values.reshape(len(array), -1)
    names = tuple(str(column + 1) for column in range(flat.shape[1]))
    positions, weights = chosen(path, names, wanted, counted=True)
    return Table(
        names=tuple(names[position] for position in positions),
        named=False,
        values=flat if len(positions) == flat.shape[1] else flat[:, positions],
        weights=None if weights is None else flat[:, weights],
        line_of=int,
        unit="row",
        item=item if len(positions) == flat.shape[1] else (),
        notes=tuple(notes),
    )


def read_parquet(path: Path, wanted: Wanted) -> Table:
    """Read numeric columns of a Parquet file; a column of lists of one length is so many coordinates.

    Raises DataError for columns of another type, for missing values, and without pyarrow.
    """
    pyarrow = _pyarrow(path)
    try:
        file = pyarrow.parquet.ParquetFile(path)
        known = [field.name for field in file.schema_arrow]
        positions, weights = chosen(path, known, wanted)
        used = [known[position] for position in positions]
        used += [] if weights is None else [known[weights]]
        columns = file.read(columns=used)
    except pyarrow.lib.ArrowException as error:
        raise DataError(f"{path} is empty, cut off or no Parquet file: {str(error).splitlines()[0]}") from error
    if not columns.num_rows:
        raise DataError(f"{path} has columns and no rows", hint="Each row is a point.")
    numbers: dict[str, NDArray[np.float64]] = {}
    notes: list[str] = []
    problems: list[Problem] = []
    for name in used:
        column = columns.column(name)
        try:
            array = _arrow(path, name, column)
        except DataError as error:
            problems += error.problems
            continue
        values, said = _converted(path, f"{path.name}: column {name!r}", array)
        numbers[name], notes = values, notes + said
    if problems:
        numeric = [name for name in used if name in numbers and name != wanted.weights]
        quoted = ", ".join(f'"{name}"' for name in numeric[:20])
        hint = f"Take the columns that hold numbers: columns = [{quoted}]." if numeric else ""
        raise refuse(path, problems[:SHOWN], len(problems), hint)
    return _table(path, numbers, wanted, notes)


def write_numpy(values: NDArray[Any], key: str | None) -> bytes:
    """Return the array as an .npy file, or as an .npz that holds it under `key`."""
    out = io.BytesIO()
    if key is None:
        np.save(out, values, allow_pickle=False)
    else:
        arrays: dict[str, Any] = {key: values}
        np.savez(out, **arrays)
    return out.getvalue()


def write_parquet(values: NDArray[Any], names: Sequence[str]) -> bytes:
    """Return (n, d) as a Parquet file with a column a coordinate."""
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    columns = {name: np.ascontiguousarray(values[:, column]) for column, name in enumerate(names)}
    parquet.write_table(pyarrow.table(columns), out)
    return out.getvalue()


def key_of(path: Path, given: str | None) -> str:
    """Return the name of the array that is read of an .npz file."""
    with np.load(path, allow_pickle=False) as archive:
        return _key(path, archive.files, given)


def _key(path: Path, known: Sequence[str], given: str | None) -> str:
    if given is None and len(known) == 1:
        return known[0]
    if given in known:
        return str(given)
    if not known:
        raise DataError(f"{path} holds no array")
    what = f"has no array {given!r}" if given is not None else f"holds {len(known)} arrays"
    raise DataError(f"{path} {what}", hint=f"Say which: key = …, one of {', '.join(sorted(known))}.")


def _pyarrow(path: Path) -> ModuleType:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{path} needs pyarrow, which is not installed", hint=PARQUET) from error
    module: ModuleType = pyarrow
    return module


def _arrow(path: Path, name: str, column: Any) -> NDArray[Any]:
    """One column as an array (n,), or (n, k) of lists. Raises DataError with the problem of the column."""
    from pyarrow import types

    if column.null_count:
        missing = next(row for row, value in enumerate(column) if not value.is_valid)
        why = f"row {missing}: column {name!r} has no value; {column.null_count} rows in all have none"
        raise DataError("", problems=[Problem(why, file=str(path))])
    kind = column.type
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    inner = kind.value_type if lists else kind
    if not (types.is_integer(inner) or types.is_floating(inner) or types.is_boolean(inner) or types.is_decimal(inner)):
        raise DataError("", problems=[Problem(f"column {name!r} holds {kind}, not numbers", file=str(path))])
    if not lists:
        return np.asarray(column.to_numpy(), dtype=None if not types.is_decimal(inner) else np.float64)
    rows = column.to_pylist()
    if len({len(row) for row in rows}) > 1 or any(value is None for row in rows for value in row):
        why = f"column {name!r} holds lists of several lengths, or with gaps: a point has as many numbers as any other"
        raise DataError("", problems=[Problem(why, file=str(path))])
    return np.array(rows, dtype=np.float64)


def _table(path: Path, columns: dict[str, NDArray[np.float64]], wanted: Wanted, notes: Sequence[str]) -> Table:
    """Put named columns beside each other; one of several numbers a row gives `name[1]`, `name[2]`, …"""
    names = tuple(columns)
    positions, weights = chosen(path, names, wanted)
    blocks = [columns[names[position]].reshape(len(columns[names[position]]), -1) for position in positions]
    flat = [
        names[position] if block.shape[1] == 1 else f"{names[position]}[{number + 1}]"
        for position, block in zip(positions, blocks, strict=True)
        for number in range(block.shape[1])
    ]
    return Table(
        names=tuple(flat),
        named=True,
        values=np.concatenate(blocks, axis=1),
        weights=None if weights is None else columns[names[weights]],
        line_of=int,
        unit="row",
        notes=tuple(notes),
    )


def _real(path: Path, name: str, array: NDArray[Any]) -> NDArray[np.float64]:
    return _converted(path, name, array)[0]


def _converted(path: Path, name: str, array: NDArray[Any]) -> tuple[NDArray[np.float64], list[str]]:
    """Real numbers of whatever numbers, and what has to be said of it."""
    if array.dtype.kind not in "fiub":
        what = "complex numbers" if array.dtype.kind == "c" else f"{array.dtype}"
        raise DataError(f"{path} holds {what}, not real numbers", hint="Points are real: float32 or float64.")
    notes = [] if array.dtype.kind == "f" else [f"{name}: {array.dtype} read as real numbers"]
    return array.astype(np.float64), notes
