"""What a pipeline knows of its data: fills derived fields, and lets a checkpoint do without the dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from atlas_core.config.values import convert
from atlas_core.contracts.dataset import DataSpec
from atlas_core.errors import ConfigError, Problem
from atlas_core.fields import FACTS

UNKNOWN: Any = object()
"""The value of a fact while the problem that hides it is on the list: what derives from it is left out in silence."""
PARTS = ("vector", "tokens", "image")
"""Parts of a `Condition` that have a width."""


@attrs.frozen
class Facts:
    """Measured once, when a pipeline is resolved, then written into its config as `[facts]`."""

    spec: DataSpec | None = None
    """None while the data is unknown."""
    widths: Mapping[str, int] | None = None
    """Width of each part that the conditioner makes; empty without one, None while it is unknown."""
    steps: int | None = None
    jumps: bool | None = None
    """Whether the objective trains a flow map; None while it is unknown. Not written: the model's own table has it."""

    def values(self) -> dict[str, Any]:
        """Return the facts by their names in `atlas_core.fields.FACTS`, `UNKNOWN` for what is not known yet."""
        values: dict[str, Any] = dict.fromkeys(FACTS, UNKNOWN)
        if self.spec is not None:
            values["data.shape"] = self.spec.shape
            values["data.classes"] = len(self.spec.classes)
            values["data.std"] = self.spec.std
            values["data.range"] = self.spec.value_range
        if self.widths is not None:
            values |= {f"condition.{part}": self.widths.get(part, 0) for part in PARTS}
        if self.steps is not None:
            values["train.steps"] = self.steps
        if self.jumps is not None:
            values["objective.jumps"] = self.jumps
        return values

    def table(self) -> dict[str, Any]:
        """Return the table `[facts]` of a resolved config."""
        table: dict[str, Any] = {}
        if self.spec is not None:
            spec = attrs.asdict(self.spec)
            table["data"] = {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in spec.items()
                if value is not None
            }
            if self.spec.value_range is None:
                table["data"]["value_range"] = "unbounded"
        if self.widths is not None:
            table["condition"] = {part: int(width) for part, width in self.widths.items()}
        return table

    @classmethod
    def from_table(cls, table: Any, steps: int | None = None) -> Facts:
        """Read `[facts]` back. Raises ConfigError for a table that was not written by `table`."""
        if not isinstance(table, Mapping):
            raise _unreadable("expected a table", "$.facts")
        if not isinstance(table.get("data", {}), Mapping):
            raise _unreadable("expected a table", "$.facts.data")
        data = dict(table.get("data", {}))
        if data.get("value_range") == "unbounded":
            data["value_range"] = None
        spec = _read(data, DataSpec, "$.facts.data") if data else None
        return cls(spec, _read(table.get("condition", {}), dict[str, int], "$.facts.condition"), steps)


def disagreements(recorded: Facts, measured: Facts) -> list[tuple[str, str]]:
    """Return (path, message) for each recorded fact that the data at hand contradicts."""
    found = []
    if recorded.spec is not None and measured.spec is not None:
        for field in attrs.fields(DataSpec):
            then, now = getattr(recorded.spec, field.name), getattr(measured.spec, field.name)
            if field.name == "std" and abs(then - now) <= 1e-6 * abs(then):
                continue  # summed in another order on another machine
            if then != now:
                found.append((f"$.facts.data.{field.name}", f"the config was made for {then!r}, the data has {now!r}"))
    if recorded.widths is not None and measured.widths is not None and dict(recorded.widths) != dict(measured.widths):
        message = f"the config was made for {dict(recorded.widths)}, the conditioner makes {dict(measured.widths)}"
        found.append(("$.facts.condition", message))
    return found


def _read(value: Any, annotation: Any, where: str) -> Any:
    converted, complaints = convert(value, annotation, where, finite=False)  # values may be unbounded
    if complaints:
        problems = [Problem(complaint.message, where=complaint.where, hint=complaint.hint) for complaint in complaints]
        raise ConfigError("[facts] cannot be read: it is written by Atlas, not by hand", problems=problems)
    return converted


def _unreadable(message: str, where: str) -> ConfigError:
    return ConfigError(
        "[facts] cannot be read: it is written by Atlas, not by hand", problems=[Problem(message, where=where)]
    )
