"""Save everything that a run needs to go on, and open it again without trusting it.

    checkpoints/step-00003000/
        networks.safetensors    weights that are trained: every network with its conditioner, and the objective's
        ema.safetensors         their moving average
        optimizer.safetensors   the state of AdamW, by parameter name
        pipeline.json           the resolved config: enough to build the networks without the data set
        lock.json               provider, version and config of each component
        state.json              format, step, counters, size and sha256 of the files above; written last

Keys are `<network>.<parameter>`, as the bare modules name them. Loading reads safetensors and JSON: it never unpickles.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs

from atlas_core.errors import CheckpointError
from atlas_core.runs.atomic import atomic_folder
from atlas_core.runs.folder import RunFolder, checkpoints_in, step_of
from atlas_core.runs.foreign import foreign_error, is_pickle, missing_error, pickle_error, refuse_file
from atlas_core.runs.tensors import digest, read_tensors, write_tensors

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "atlas-checkpoint"
VERSION = 1
_FILES = ("networks.safetensors", "ema.safetensors", "optimizer.safetensors", "pipeline.json", "lock.json")
_JSON_LIMIT = 64 * 2**20


@attrs.frozen(eq=False)
class Checkpoint:
    """One checkpoint that was found whole: every file is there with the size it was written with."""

    path: Path
    step: int
    """Optimizer steps that were finished."""
    table: dict[str, Any]
    """The resolved config."""
    lock: dict[str, Any]
    counters: dict[str, Any]
    """Data position, seed, EMA updates, loss scaler: all that a resumed run needs besides tensors."""
    files: dict[str, dict[str, Any]] = attrs.field(repr=False)

    def load_networks(self, which: Literal["ema", "raw"] = "ema") -> dict[str, dict[str, Tensor]]:
        """Return the state dict of each trained module by name, `denoiser` among them, on the CPU.

        Raises CheckpointError if the file is not the one that was written.
        """
        if which not in ("ema", "raw"):
            raise ValueError(f"which={which!r}; valid: 'ema', 'raw'")
        modules: dict[str, dict[str, Tensor]] = {}
        for key, tensor in self._load("ema.safetensors" if which == "ema" else "networks.safetensors").items():
            name, _, rest = key.partition(".")
            modules.setdefault(name, {})[rest] = tensor
        return modules

    def load_optimizer(self) -> dict[str, Tensor]:
        """Return the optimizer's tensors, `<parameter>/<state>`, on the CPU."""
        return self._load("optimizer.safetensors")

    def _load(self, name: str) -> dict[str, Tensor]:
        from safetensors import SafetensorError

        self.verify([name])
        try:
            return read_tensors(self.path / name)
        except (SafetensorError, ValueError) as error:
            raise _corrupt(self.path, f"{name} cannot be read: {error}") from error

    def verify(self, names: list[str] | None = None) -> None:
        """Read the files (all of them by default) and compare their sha256. Raises CheckpointError."""
        if problem := _altered(self.path, self.files, names or list(self.files)):
            raise _corrupt(self.path, problem)


def save(
    folder: RunFolder,
    step: int,
    *,
    networks: Mapping[str, Mapping[str, Tensor]],
    ema: Mapping[str, Mapping[str, Tensor]],
    optimizer: Mapping[str, Tensor],
    counters: Mapping[str, Any],
    table: Mapping[str, Any],
    lock: Mapping[str, Any],
    keep: int | None = None,
) -> Path:
    """Write the checkpoint after `step` and return its folder; `networks` and `ema` are state dicts by module name.

    It appears whole or not at all. Afterwards only the `keep` newest are left. Raises RunError, which names the
    checkpoint that is intact, where the disk refuses.
    """
    last = folder.latest_checkpoint()
    intact = f"{last.name} is intact" if last else "no checkpoint was written before"
    target = folder.checkpoint_of(step)
    with atomic_folder(target, intact=intact) as new:
        write_tensors(new / "networks.safetensors", _flat(networks))
        write_tensors(new / "ema.safetensors", _flat(ema))
        write_tensors(new / "optimizer.safetensors", optimizer)
        (new / "pipeline.json").write_text(_json(table), encoding="utf-8")
        (new / "lock.json").write_text(_json(lock), encoding="utf-8")
        files = {name: {"bytes": (new / name).stat().st_size, "sha256": digest(new / name)} for name in _FILES}
        state = {"format": FORMAT, "version": VERSION, "step": step, "counters": dict(counters), "files": files}
        (new / "state.json").write_text(_json(state), encoding="utf-8")
    if keep is not None:
        for old in folder.all_checkpoints()[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    return target


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint: a run folder or its checkpoints/ (the newest one is taken), or one step-… folder.

    Raises CheckpointError, naming the file and the next step, for anything else: nothing there, a pickle, a truncated
    or altered file, a folder of another program.
    """
    path = Path(path)
    try:
        return _open(path)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or path} cannot be read: {error.strerror}", hint="`ls -l` it"
        ) from error


def _open(path: Path) -> Checkpoint:
    if not path.exists():
        raise missing_error(path)
    if not path.is_dir():
        raise refuse_file(path)
    if (path / "state.json").exists() or step_of(path) is not None:
        return _open_step(path)
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    found = checkpoints_in(folder)
    if found:
        return _open_step(found[-1])
    if folder != path or path.name == "checkpoints":
        run = RunFolder(path if folder != path else path.parent)
        hint = f"`{run.resume_command}` starts it again"
        raise CheckpointError(f"{run.path} has no checkpoint: it was stopped before the first one", hint=hint)
    raise foreign_error(path)


def _open_step(path: Path) -> Checkpoint:
    state = _read_json(path, "state.json")
    if state.get("format") != FORMAT:
        raise CheckpointError(f"{path / 'state.json'} is not the state of a checkpoint of Atlas")
    if state.get("version") != VERSION:
        raise CheckpointError(
            f"{path} is written in format {state.get('version')}; this Atlas reads format {VERSION}",
            hint="`pip install --upgrade atlas-core` brings an Atlas that reads it",
        )
    try:
        files, step, counters = dict(state["files"]), int(state["step"]), dict(state["counters"])
        sizes = {name: int(files[name]["bytes"]) for name in _FILES}
    except (KeyError, TypeError, ValueError) as error:
        raise _corrupt(path, f"state.json is incomplete ({error})") from error
    for name, size in sizes.items():
        if problem := _damage(path / name, size):
            raise _corrupt(path, problem)
    if problem := _altered(path, files, ["pipeline.json", "lock.json"]):
        raise _corrupt(path, problem)
    table, lock = _read_json(path, "pipeline.json"), _read_json(path, "lock.json")
    return Checkpoint(path, step, table, lock, counters, files)


def _read_json(path: Path, name: str) -> dict[str, Any]:
    file = path / name
    if not file.is_file():
        raise _corrupt(path, f"{name} is missing")
    if file.stat().st_size > _JSON_LIMIT:
        raise _corrupt(path, f"{name} is far too large")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, f"{name} is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise _corrupt(path, f"{name} does not hold an object")
    return value


def _damage(file: Path, size: int) -> str:
    """Say what is wrong with a file without reading all of it; empty: nothing."""
    if not file.is_file():
        return f"{file.name} is missing"
    if is_pickle(file):
        raise pickle_error(file)
    actual = file.stat().st_size
    if actual != size:
        change = "truncated" if actual < size else "changed"
        return f"{file.name} has {actual} bytes, the checkpoint recorded {size}: the file was {change} or replaced"
    return ""


def _altered(path: Path, files: Mapping[str, Mapping[str, Any]], names: list[str]) -> str:
    for name in names:
        if digest(path / name) != files[name].get("sha256"):
            return f"{name} is not the file that was written (its sha256 differs)"
    return ""


def _corrupt(path: Path, problem: str) -> CheckpointError:
    others = [other for other in reversed(checkpoints_in(path.parent)) if other != path]
    intact = next((other for other in others if _is_intact(other)), None)
    if intact is None:
        return CheckpointError(
            f"{path} is damaged: {problem}", hint="no other checkpoint beside it is intact; train again"
        )
    return CheckpointError(
        f"{path} is damaged: {problem}",
        hint=f"{intact} is intact: open that one, or go on from it after `rm -r {path}`",
    )


def _is_intact(path: Path) -> bool:
    """Whether a checkpoint is whole, without looking at the others beside it."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        return state["format"] == FORMAT and not _altered(path, state["files"], list(_FILES))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _flat(modules: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{name}.{key}": tensor for name, module in modules.items() for key, tensor in module.items()}


def _json(value: Mapping[str, Any]) -> str:
    # A config may hold an infinity (the end of an interval); Python reads it back, and null would be another value.
    return json.dumps(value, indent=1, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (tuple, set, frozenset)):
        return sorted(value) if not isinstance(value, tuple) else list(value)
    raise TypeError(f"a checkpoint stores JSON; it cannot store a {type(value).__name__}")
