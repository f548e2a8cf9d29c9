"""What a run's folder holds for its report. A file that is missing or broken is said on the page, never made up."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from atlas_core.engine.scores import Evaluation
from atlas_core.runs.folder import RunFolder

EVALUATION, TIMINGS, ACTIVE, PROBLEMS = "evaluation.json", "timings.json", "active.json", "problems.json"
"""Names of the files beside config.toml, lock.json and metrics.jsonl.

evaluation.json is `Evaluation.to_json`; timings.json maps a phase to seconds; active.json maps a setting to
{"requested": …, "active": …, "reason": …}; problems.json lists texts, or objects with `message`, `where` and `hint`
(`attrs.asdict(Problem)`).
"""


@attrs.frozen
class Picture:
    """A PNG of the run with what it shows."""

    path: Path
    title: str

    @property
    def png(self) -> bytes:
        return self.path.read_bytes()


@attrs.frozen
class Contents:
    """A run as its folder tells it."""

    name: str
    path: Path
    config_text: str = ""
    config: dict[str, Any] = attrs.field(factory=dict)
    lock: dict[str, Any] = attrs.field(factory=dict)
    journal: list[dict[str, Any]] = attrs.field(factory=list)
    evaluation: Evaluation | None = None
    timings: dict[str, float] = attrs.field(factory=dict)
    active: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    problems: list[dict[str, str]] = attrs.field(factory=list)
    samples: Picture | None = None
    strip: Picture | None = None
    progress: tuple[Picture, ...] = ()

    @property
    def components(self) -> list[dict[str, Any]]:
        return list(self.lock.get("components", []))

    def used(self, table: str) -> str:
        """The short name of the component of a config table; empty where there is none."""
        section = self.config.get(table)
        return str(section.get("use", "")).rpartition(":")[2] if isinstance(section, Mapping) else ""

    def setting(self, table: str, key: str) -> Any:
        section = self.config.get(table)
        return section.get(key) if isinstance(section, Mapping) else None


def read_contents(run: RunFolder) -> Contents:
    """Read everything that the report shows; a part that is broken becomes a problem of the run, never an error."""
    reader = _Reader(run.path)
    config_text = reader.read("config.toml", str, "")
    config = reader.read("config.toml", tomllib.loads, {})
    lock = reader.read("lock.json", json.loads, {})
    evaluation = reader.read(EVALUATION, lambda text: Evaluation.from_json(json.loads(text)), None)
    timings = reader.read(TIMINGS, lambda text: {k: float(v) for k, v in json.loads(text).items()}, {})
    active = reader.read(ACTIVE, json.loads, {})
    problems = reader.read(PROBLEMS, lambda text: [_problem(each) for each in json.loads(text)], [])
    progress = tuple(
        Picture(path, f"after {int(path.stem.removeprefix('step-'))} steps")
        for path in sorted(run.samples.glob("step-*.png"))
        if path.stem.removeprefix("step-").isdigit()
    )
    return Contents(
        name=run.name,
        path=run.path,
        config_text=config_text,
        config=config,
        lock=lock,
        journal=run.journal.rows(),
        evaluation=evaluation,
        timings=timings,
        active=active,
        problems=[*problems, *reader.problems],
        samples=_first(run.path / "samples.png", run.samples / "samples.png", title="samples")
        or (progress or (None,))[-1],
        strip=_first(run.samples / "strip.png", title="from noise to samples"),
        progress=progress,
    )


@attrs.define
class _Reader:
    folder: Path
    problems: list[dict[str, str]] = attrs.field(factory=list)

    def read(self, name: str, parse: Callable[[str], Any], missing: Any) -> Any:
        path = self.folder / name
        if not path.exists():
            return missing
        try:
            return parse(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            said = _problem(f"{name} cannot be read: {type(error).__name__}: {error}")
            if said not in self.problems:
                self.problems.append(said)
            return missing


def _problem(each: Any) -> dict[str, str]:
    if isinstance(each, Mapping):
        return {key: str(each.get(key) or "") for key in ("message", "where", "file", "hint")}
    return {"message": str(each), "where": "", "file": "", "hint": ""}


def _first(*paths: Path, title: str) -> Picture | None:
    return next((Picture(path, title) for path in paths if path.exists()), None)
