"""Collect the numbers of steps until a line is written, and notice the first that is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class NotFiniteError(Exception):
    """The number `name` of step `step` (counted from 1) is NaN or infinite."""

    def __init__(self, step: int, name: str, value: float) -> None:
        super().__init__(f"{name} is {value} at step {step}")
        self.step = step
        self.name = name
        self.value = value


class Window:
    """Means since the last line. Numbers stay on the device until `pull`, which alone waits for it."""

    def __init__(self, must_be_finite: frozenset[str]) -> None:
        self._must_be_finite = must_be_finite
        self._pending: list[tuple[int, dict[str, Tensor]]] = []
        self._sums: dict[str, list[float]] = {}

    def add(self, step: int, numbers: dict[str, Tensor]) -> None:
        """Take in the 0-d numbers of step `step`."""
        self._pending.append((step, numbers))

    def pull(self, reduce: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """Bring the numbers over and return those of the newest step; `reduce` averages over ranks.

        Raises NotFiniteError for the first step whose loss is not finite.
        """
        latest: dict[str, float] = {}
        if not self._pending:
            return latest
        flat = torch.stack([value.detach().float() for _, numbers in self._pending for value in numbers.values()])
        values = iter((reduce(flat) if reduce else flat).tolist())
        pending, self._pending = self._pending, []
        for step, numbers in pending:
            latest = {name: next(values) for name in numbers}
            for name, value in latest.items():
                if math.isfinite(value):
                    total = self._sums.setdefault(name, [0.0, 0])
                    total[0] += value
                    total[1] += 1
                elif name in self._must_be_finite:
                    raise NotFiniteError(step, name, value)
        return latest

    def close(self) -> dict[str, float]:
        """Return the means and begin anew."""
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        return means

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores, so that a resumed run writes the same line."""
        return {name: list(total) for name, total in self._sums.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        self._sums = {name: [float(total), int(count)] for name, (total, count) in state.items()}
