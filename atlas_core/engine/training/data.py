"""Bring the rows of a batch to the step that needs them: from memory where they fit, else read ahead by threads."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from atlas_core.contracts import Split
from atlas_core.engine.training.order import Rows
from atlas_core.errors import DataError

MEMORY = 512 * 2**20
"""Bytes up to which a split is kept in memory once its rows were read."""
_AHEAD = 2
_THREADS = 4


class RowReader:
    """Reads rows of a split by number; what was read once stays in memory if all of the split fits there."""

    def __init__(self, split: Split, shape: tuple[int, ...], *, memory: int = MEMORY) -> None:
        self._split = split
        self._shape = tuple(shape)
        self.count = len(split)
        if not self.count:
            kind = f"{type(split).__module__}.{type(split).__qualname__}"
            raise DataError(f"the split, a {kind}, has no examples", hint="look at the settings of [data]")
        fits = self.count * math.prod(self._shape) * 4 <= memory
        self._store = torch.empty((self.count, *self._shape)) if fits else None
        self._conditions: list[Any] = [None] * self.count if fits else []
        self._missing = set(range(self.count)) if fits else set()
        # Threads, not processes: decoding images releases the interpreter lock, and nothing has to be pickled.
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="atlas-rows")

    @property
    def ready(self) -> bool:
        """Whether every row is in memory, so that nothing is gained by reading ahead."""
        return self._store is not None and not self._missing

    def read(self, rows: Rows) -> tuple[Tensor, list[Any]]:
        """Return x (b, *item), float32 on the CPU, and the raw conditions of these rows."""
        numbers = rows.tolist()
        if self._store is None:
            read = list(self._pool.map(self._example, numbers))
            return torch.stack([x for x, _ in read]), [condition for _, condition in read]
        missing = sorted(self._missing.intersection(numbers)) if self._missing else []
        for number, (x, condition) in zip(missing, self._pool.map(self._example, missing), strict=True):
            self._store[number] = x
            self._conditions[number] = condition
        self._missing.difference_update(missing)
        return self._store[torch.from_numpy(rows)], [self._conditions[number] for number in numbers]

    def _example(self, number: int) -> tuple[Tensor, Any]:
        example = self._split[number]
        if tuple(example.x.shape) != self._shape:
            shapes = f"{tuple(example.x.shape)} instead of {self._shape}"
            raise DataError(f"example {number} has the shape {shapes}, which the data set's spec promises")
        return example.x.to(torch.float32), example.condition

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class ReadAhead:
    """Answers "the rows of step k" while the next steps are read in the background; any k may be asked for."""

    def __init__(self, reader: RowReader, rows_of: Callable[[int], Rows]) -> None:
        self._reader = reader
        self._rows_of = rows_of
        self._pending: dict[int, Future[tuple[Tensor, list[Any]]]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="atlas-read-ahead")

    def __call__(self, step: int) -> tuple[Tensor, list[Any]]:
        """Return x (b, *item) and the raw conditions of step `step`. Raises what the data set raised."""
        pending = self._pending.pop(step, None)
        batch = pending.result() if pending is not None else None
        if self._reader.ready:
            self._pending.clear()
        else:
            for later in range(step + (batch is not None), step + 1 + _AHEAD):
                if later not in self._pending:
                    self._pending[later] = self._thread.submit(self._read, later)
        if batch is None:
            pending = self._pending.pop(step, None)
            batch = pending.result() if pending is not None else self._read(step)
        return batch

    def _read(self, step: int) -> tuple[Tensor, list[Any]]:
        return self._reader.read(self._rows_of(step))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._pending.clear()
        self._reader.close()
