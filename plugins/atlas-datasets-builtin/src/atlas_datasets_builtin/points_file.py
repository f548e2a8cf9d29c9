"""Points from a file of one's own: CSV, TSV, Parquet, NPY or NPZ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np
import torch
from torch import Tensor

from atlas_core.contracts import DataSpec
from atlas_core.errors import DataError
from atlas_datasets_builtin.arrays import key_of, read_numpy, read_parquet, write_numpy, write_parquet
from atlas_datasets_builtin.delimited import delimiter_of, read_delimited, write_delimited
from atlas_datasets_builtin.paths import absolute
from atlas_datasets_builtin.splits import TensorSplit, pick
from atlas_datasets_builtin.tables import Table, Wanted, check_finite

TEXT, NUMPY, PARQUET = (".csv", ".tsv"), (".npy", ".npz"), (".parquet", ".pq")
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def _one_character(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    if len(value) != 1 or value in '\r\n"':
        raise ValueError(f"{attribute.name} must be one character, as ';', not {value!r}")


def _setting(default: Any, help: str, validator: Any = None) -> Any:
    return attrs.field(default=default, validator=validator, metadata={"help": help})


@attrs.frozen
class PointsFile:
    """Take points from a file: each row a point, each column a coordinate. CSV, TSV, Parquet, NPY and NPZ.

    Arrays of more than two dimensions, (n, *item), are items of that shape, as images (n, c, h, w). Whole numbers
    become real ones; an empty cell, text, NaN or infinity is an error that names line and column. Nothing is unpickled.
    A weight a point, where there are weights, is what `weights_of` returns; a training sees every point alike.
    """

    opens = (*TEXT, *PARQUET, *NUMPY)

    path: str = attrs.field(converter=absolute, metadata={"help": "The file; it is only read."})
    columns: tuple[str, ...] = _setting(
        (), "Columns that are the coordinates, in this order: names, or numbers from 1 without a header. Empty: all."
    )
    weights: str | None = _setting(None, "Column with the mass of each point; unset: all alike.")
    normalize: bool = _setting(True, "Divide the weights by their sum. False keeps masses, for unbalanced transport.")
    header: Literal["auto", "yes", "no"] = _setting(
        "auto", "Text: whether the first line names the columns; auto: if it is not all numbers."
    )
    delimiter: str | None = _setting(
        None,
        "Text: what separates the cells; unset: tabs in .tsv, else the most frequent of `,`, `;` and tab.",
        attrs.validators.optional(_one_character),
    )
    key: str | None = _setting(None, "NPZ: name of the array; unset: the only one.")
    shape: tuple[int, ...] = _setting(
        (),
        "Shape that each row is given, as [1, 8, 8] for images; empty: that of the file.",
        attrs.validators.deep_iterable(attrs.validators.gt(0)),
    )
    dtype: Literal["float32", "float64"] = _setting(
        "float32", "Type of the points: float32 for training, float64 where transport is to be exact."
    )
    test_fraction: float = _setting(
        0.0,
        "Share of the rows, drawn by `seed`, that is held out as `test`; 0: there is no such split.",
        [attrs.validators.ge(0), attrs.validators.lt(1)],
    )
    seed: int = _setting(0, "Seed of the split.", attrs.validators.ge(0))

    @classmethod
    def opening(cls, path: str) -> Mapping[str, Any]:
        """Return the settings with which a transport opens a file."""
        return {"path": path, "dtype": "float64"}

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "test") if self.test_fraction > 0 else ("train",)

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of the coordinates; empty where the file has none."""
        return self._table.names if self._table.named else ()

    @cached_property
    def spec(self) -> DataSpec:
        items = self._splits["train"].items.double()
        # All points equal have no spread; a network's σ_data has to be positive.
        std = max(float(items.std(correction=0)), 1e-3)
        return DataSpec(shape=tuple(items.shape[1:]), value_range=None, std=std)

    def split(self, name: str) -> TensorSplit:
        return pick(self._splits, name)

    def weights_of(self, split: str) -> Tensor | None:
        """Return the mass of each point of a split, (n,) float64; None where all are alike."""
        weights = self._table.weights
        if weights is None:
            return None
        rows = torch.from_numpy(weights)[pick(self._rows, split)]
        return rows / rows.sum() if self.normalize else rows

    def notes(self) -> tuple[str, ...]:
        """Return what was converted or left out, a sentence each."""
        table, notes = self._table, list(self._table.notes)
        twice = len(table.values) - len(np.unique(table.values, axis=0))
        if twice:
            notes.append(f"{self._path.name}: {twice} of {len(table.values)} points are copies of others")
        if self.dtype == "float32" and (error := _rounding(table.values)) > 1e-3:
            notes.append(
                f"{self._path.name}: float32 rounds by up to {error:.1g} of the spread; "
                'dtype = "float64", or points near 0, lose nothing'
            )
        return tuple(notes)

    def encode(self, x: Tensor, name: str) -> Iterator[tuple[str, bytes]]:
        """Yield (file name, content): items x (n, *item) in the format, and under the columns, of this file."""
        array = x.detach().cpu().numpy()
        flat, names = array.reshape(len(array), -1), list(self._table.names)
        suffix = self._path.suffix.lower()
        if suffix in TEXT:
            delimiter = delimiter_of(self._path, self.delimiter)
            content = write_delimited(flat, names if self._table.named else (), delimiter)
        elif suffix in PARQUET:
            content = write_parquet(flat, names)
        else:
            content = write_numpy(array, key_of(self._path, self.key) if suffix == ".npz" else None)
        yield f"{name}{suffix}", content

    @property
    def _path(self) -> Path:
        return Path(self.path)

    @cached_property
    def _table(self) -> Table:
        path, wanted = self._path, Wanted(self.columns, self.weights)
        suffix = path.suffix.lower()
        readers: dict[str, Callable[[], Table]] = {
            **dict.fromkeys(TEXT, lambda: read_delimited(path, wanted, delimiter=self.delimiter, header=self.header)),
            **dict.fromkeys(NUMPY, lambda: read_numpy(path, wanted, key=self.key)),
            **dict.fromkeys(PARQUET, lambda: read_parquet(path, wanted)),
        }
        _need_file(path)
        if suffix not in readers:
            near = get_close_matches(suffix, self.opens, n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise DataError(
                f"{path} ends in {suffix or 'nothing'}, which says nothing about its format",
                hint=f"{hint}Known: {', '.join(self.opens)}.",
            )
        try:
            table = readers[suffix]()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        check_finite(path, table)
        if self.dtype == "float32" and np.abs(table.values).max() > np.finfo(np.float32).max:
            raise DataError(f"{path} holds numbers too large for float32", hint='Set dtype = "float64".')
        return table

    @cached_property
    def _rows(self) -> dict[str, Tensor]:
        """The rows of each split, in the order of the file."""
        count = len(self._table.values)
        held_out = int(self.test_fraction * count + 0.5)
        if self.test_fraction > 0:
            if count < 2:
                raise DataError(
                    f"{self.path} holds one point, so none can be held out",
                    hint="Set test_fraction = 0, or add points.",
                )
            held_out = min(max(held_out, 1), count - 1)
        order = np.random.default_rng(self.seed).permutation(count)
        parts = {"train": order[held_out:], "test": order[:held_out]}
        return {name: torch.from_numpy(np.sort(parts[name])) for name in self.splits}

    @cached_property
    def _splits(self) -> dict[str, TensorSplit]:
        table = self._table
        shape = self.shape or table.item or table.values.shape[1:]
        if math.prod(shape) != table.values.shape[1]:
            raise DataError(
                f"{self.path} has {table.values.shape[1]} numbers a row, and {list(shape)} takes {math.prod(shape)}",
                hint="Set shape to one with as many, or choose the columns.",
            )
        items = torch.from_numpy(table.values).to(DTYPES[self.dtype]).reshape(-1, *shape)
        return {name: TensorSplit(items[rows]) for name, rows in self._rows.items()}


def _need_file(path: Path) -> None:
    if path.is_file():
        return
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a file of points", hint="Name a file in it.")
    if not path.parent.is_dir():
        raise DataError(f"there is no file {path}", hint=f"There is no folder {path.parent}.")
    beside = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix.lower() in PointsFile.opens)
    near = get_close_matches(path.name, beside, n=2)
    known = f"Beside it: {', '.join(beside[:10])}." if beside else ""
    raise DataError(f"there is no file {path}", hint=f"Did you mean {' or '.join(near)}?" if near else known)


def _rounding(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """The largest rounding to float32, relative to the spread of its coordinate."""
    with np.errstate(over="ignore"):
        error = np.abs(values.astype(np.float32) - values).max(0)
    spread = values.std(0)
    return float((error / np.where(spread > 0, spread, np.inf)).max(initial=0.0))
