"""The folder of a run: where each of its parts lies."""

from __future__ import annotations

import re
import shlex
import tempfile
from pathlib import Path

import attrs

from atlas_core.errors import UsageError
from atlas_core.runs.atomic import saying
from atlas_core.runs.journal import Journal

_STEP = re.compile(r"step-(\d{8,})")
_REFUSED = "nothing was started"
_AGAIN = "run the command again"


def check_name(name: str) -> None:
    """Raise UsageError for what no folder of a run can be called."""
    if not name or name in (".", "..") or re.search(r"[/\\\0]", name):
        raise UsageError(f"{name!r} cannot be the name of a run", hint="use letters, digits, '-' and '_'")


@attrs.frozen
class RunFolder:
    """runs/<name>/: config.toml, lock.json, metrics.jsonl, checkpoints/, samples/, report.html."""

    path: Path = attrs.field(converter=Path)

    @classmethod
    def create(cls, root: str | Path, name: str, *, training: bool = True) -> RunFolder:
        """Make a new folder `root/name`, or `name-2`, `name-3`, … where that is taken: no run overwrites another.

        `training`: with folders for checkpoints and samples, which a transport does not need.
        Raises UsageError for a name that is no folder name, RunError where the folder cannot be made.
        """
        check_name(name)
        root, number = Path(root), 1
        while True:
            path = root / (name if number == 1 else f"{name}-{number}")
            with saying(path, _REFUSED, then=f"{_AGAIN}, or give it another folder with `--runs`"):
                try:
                    path.mkdir(parents=True)
                except FileExistsError:
                    if not path.is_dir() or any(path.iterdir()):
                        number += 1
                        continue
            run = cls(path)
            run.prepare() if training else _probe(path)
            return run

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open an existing run. Raises UsageError, with the runs beside it, where there is none."""
        path = Path(path)
        run = cls(path)
        if not path.is_dir() or not (run.config_toml.exists() or run.checkpoints.is_dir()):
            names = sorted(found.parent.name for found in path.parent.glob("*/checkpoints"))
            known = f"runs in {path.parent}: {', '.join(names)}" if names else f"there is no run in {path.parent}"
            raise UsageError(f"{path} is not the folder of a run", hint=f"{known}; `atlas-core run digits` makes one")
        return run

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def config_toml(self) -> Path:
        """The resolved config."""
        return self.path / "config.toml"

    @property
    def lock_json(self) -> Path:
        """Provider, version and config of each component."""
        return self.path / "lock.json"

    @property
    def metrics_jsonl(self) -> Path:
        """One line of numbers a logged step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def report_html(self) -> Path:
        return self.path / "report.html"

    @property
    def journal(self) -> Journal:
        return Journal(self.metrics_jsonl)

    @property
    def resume_command(self) -> str:
        """What to type to go on with this run."""
        return f"atlas-core train --resume {shlex.quote(str(self.path))}"

    def prepare(self) -> None:
        """Make what is missing of the folder and write a byte to it: better refused now than at the first checkpoint.

        Raises RunError where the disk refuses.
        """
        for folder in (self.checkpoints, self.samples):
            with saying(folder, _REFUSED, then=_AGAIN):
                folder.mkdir(parents=True, exist_ok=True)
            _probe(folder)

    def checkpoint_of(self, step: int) -> Path:
        """Where the checkpoint after `step` lies, or will."""
        return self.checkpoints / f"step-{step:08d}"

    def all_checkpoints(self) -> list[Path]:
        """Return the finished checkpoints, oldest first; unfinished ones have another name and are never seen."""
        return checkpoints_in(self.checkpoints)

    def latest_checkpoint(self) -> Path | None:
        """Return the newest finished checkpoint, or None before the first."""
        found = self.all_checkpoints()
        return found[-1] if found else None


def _probe(folder: Path) -> None:
    """Write a byte, and take it away again. Raises RunError where the disk refuses."""
    with saying(folder, _REFUSED, then=_AGAIN), tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"x")


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the folders `step-…` of `folder` by step."""
    entries = folder.iterdir() if folder.is_dir() else ()
    steps = [(step, entry) for entry in entries if (step := step_of(entry)) is not None and entry.is_dir()]
    return [entry for _, entry in sorted(steps)]


def step_of(checkpoint: Path) -> int | None:
    """Return the step in the name of a checkpoint folder; None for any other name."""
    match = _STEP.fullmatch(checkpoint.name)
    return int(match.group(1)) if match else None
