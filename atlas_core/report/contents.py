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

EVALUATIONS, MANIFEST = "evaluations", "manifest.json"
"""Folder of the evaluations with overrides, one folder each; what drew the final samples."""
EVALUATION, TIMINGS, ACTIVE, PROBLEMS = "evaluation.json", "timings.json", "active.json", "problems.json"
"""Names of the files beside config.toml, lock.json and metrics.jsonl.

evaluation.json is `Evaluation.to_json`; timings.json maps a phase to seconds; active.json maps a setting to
{"requested": …, "active": …, "reason": …}; problems.json lists texts, or objects with `message`, `where` and `hint`
(`attrs.asdict(Problem)`).
"""


DRAWN = ("process", "parametrization", "model", "conditioner", "sampler", "sampling")
SCORED = ("data", "evaluate")
"""Tables whose parts the manifest and the evaluation name."""
ORDER = ("data", "process", "parametrization", "model", "conditioner", "objective", "sampler", "sampling", "evaluate")


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
    home: Path
    """Folder of the run: `path` itself, or where an evaluation with overrides belongs."""
    config_text: str = ""
    """Of `path`; an evaluation's has its overrides in it."""
    config: dict[str, Any] = attrs.field(factory=dict)
    """The run's own."""
    manifest: dict[str, Any] = attrs.field(factory=dict)
    """What drew the final samples; empty before they are drawn."""
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
        """What drew and scored, as manifest and evaluation name it; the rest as the lock of the training does.

        `trained` is the version at the training, where that was another.
        """
        scored = self.evaluation.parts if self.evaluation is not None else ()
        later = [*self.manifest.get("parts", ()), *scored]
        replaced = set(DRAWN if self.manifest.get("parts") else ()) | set(SCORED if scored else ())
        locked = list(self.lock.get("components", []))
        versions = {(each["kind"], each["id"]): each["version"] for each in locked}
        merged = [each for each in locked if _table(each) not in replaced]
        merged += [{**each, "trained": versions.get((each["kind"], each["id"]), each["version"])} for each in later]
        return sorted(merged, key=lambda each: ORDER.index(_table(each)) if _table(each) in ORDER else len(ORDER))

    @property
    def overrides(self) -> list[str]:
        return list(self.manifest.get("overrides", ()))

    @property
    def versions(self) -> dict[str, str]:
        """Of Python, torch and Atlas: of what drew the samples, of the training before."""
        return dict(self.manifest.get("versions") or self.lock.get("versions", {}))

    def drew(self, part: str) -> str:
        """The short name of the sampler, grid or guidance that drew the samples; empty before they are drawn."""
        table = self.manifest.get(part)
        return str(table.get("use", "")).rpartition(":")[2] if isinstance(table, Mapping) else ""

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
    home = home_of(run)
    own = reader if home.path == run.path else _Reader(home.path, reader.problems)
    config_text = reader.read("config.toml", str, "")
    config = own.read("config.toml", tomllib.loads, {})
    lock = own.read("lock.json", _mapping, {})
    manifest = reader.read(MANIFEST, _mapping, {})
    evaluation = reader.read(EVALUATION, lambda text: Evaluation.from_json(json.loads(text)), None)
    timings = reader.read(TIMINGS, lambda text: {k: float(v) for k, v in json.loads(text).items()}, {})
    active = reader.read(ACTIVE, json.loads, {})
    problems = reader.read(PROBLEMS, lambda text: [_problem(each) for each in json.loads(text)], [])
    progress = tuple(
        Picture(path, f"after {int(path.stem.removeprefix('step-'))} steps")
        for path in sorted(home.samples.glob("step-*.png"))
        if path.stem.removeprefix("step-").isdigit()
    )
    return Contents(
        name=run.name if home.path == run.path else home.name,
        path=run.path,
        home=home.path,
        config_text=config_text,
        config=config,
        manifest=manifest,
        lock=lock,
        journal=home.journal.rows(),
        evaluation=evaluation,
        timings=timings,
        active=active,
        problems=[*problems, *reader.problems],
        samples=_first(run.path / "samples.png", run.samples / "samples.png", title="samples")
        or (progress or (None,))[-1],
        strip=_first(run.samples / "strip.png", title="from noise to samples"),
        progress=progress,
    )


def home_of(run: RunFolder) -> RunFolder:
    """Return the run that an evaluation with overrides belongs to; any other run itself."""
    above = run.path.resolve().parent
    if above.name != EVALUATIONS or not (above.parent / "checkpoints").is_dir():
        return run
    return RunFolder(run.path.parent.parent if run.path.parent.name == EVALUATIONS else above.parent)


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


def _mapping(text: str) -> dict[str, Any]:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"an object wanted, not {type(content).__name__}")
    return content


def _table(component: Mapping[str, Any]) -> str:
    """The table of a component's place: `sampling` of `$.sampling.grid`."""
    return str(component.get("where", "")).removeprefix("$.").partition(".")[0].partition("[")[0]


def _problem(each: Any) -> dict[str, str]:
    if isinstance(each, Mapping):
        return {key: str(each.get(key) or "") for key in ("message", "where", "file", "hint")}
    return {"message": str(each), "where": "", "file": "", "hint": ""}


def _first(*paths: Path, title: str) -> Picture | None:
    return next((Picture(path, title) for path in paths if path.exists()), None)
