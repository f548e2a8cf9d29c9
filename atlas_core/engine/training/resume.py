"""Say whether a run may go on with a config, and turn an optimizer into named tensors and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from atlas_core.config.sections import TrainConfig
from atlas_core.engine.checkpoint import Checkpoint
from atlas_core.errors import CheckpointError, Problem, UsageError

_FIXED = ("seed", "batch")
_FREE = frozenset({"log_every", "validate_every", "sample_every", "checkpoint_every", "keep_checkpoints", "device"})
_COMPONENTS = ("data", "process", "parametrization", "model", "conditioner", "objective")
_PLACES = frozenset({"root", "path", "folder"})
"""Keys of a data set that say where it lies: it may have moved."""


def check_resumable(checkpoint: Checkpoint, config: TrainConfig, table: Mapping[str, Any], count: int) -> list[str]:
    """Compare a run's config with that of its checkpoint; return the changes that are allowed, as sentences.

    Raises UsageError listing every difference that would make this another run: seed, batch, components, data.
    """
    before: dict[str, Any] = checkpoint.counters.get("train", {})
    now = attrs.asdict(config)
    problems, notes = [], []
    for name, value in now.items():
        if name in before and before[name] != value and name not in _FREE:
            change = f"{before[name]} in the checkpoint, {value} now"
            if name in _FIXED:
                problems.append(Problem(change, where=f"$.train.{name}"))
            else:
                notes.append(f"train.{name}: {change}")
    if config.steps < checkpoint.step:
        done = f"{checkpoint.step} steps are done already, {config.steps} would be fewer"
        problems.append(Problem(done, where="$.train.steps"))
    for section in _COMPONENTS:
        old, new = (
            dict(_leaves(plain.get(section), f"$.{section}")) for plain in (_plain(checkpoint.table), _plain(table))
        )
        for where in sorted(old.keys() | new.keys()):
            moved = section == "data" and where.rpartition(".")[2] in _PLACES
            if old.get(where) != new.get(where) and not moved:
                problems.append(Problem(f"{_show(old, where)} in the checkpoint, {_show(new, where)} now", where=where))
    if checkpoint.counters.get("examples", count) != count:
        counts = f"{checkpoint.counters['examples']} examples in the checkpoint, {count} now"
        problems.append(Problem(counts, where="$.data"))
    if problems:
        raise UsageError(
            f"this is not the run that {checkpoint.path} belongs to",
            problems=problems,
            hint="resume with the config of the run, or start a new run with this one",
        )
    return notes


def check_counters(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless all is there that a training goes on with, besides tensors."""
    counters = checkpoint.counters
    try:
        window = {name: (float(total), int(count)) for name, (total, count) in counters["window"].items()}
        _ = window, int(counters["ema_updates"]), float(counters["seconds"]), dict(counters["scaler"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{checkpoint.path} cannot be resumed: the counters in its state.json are incomplete or damaged"
            f" ({type(error).__name__}: {error})",
            hint="delete it to go on from the checkpoint before it; samples can still be drawn from it",
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """Return the state of the optimizer as `<parameter>/<state>`; `names` are those of its parameters, in order."""
    state = optimizer.state_dict()["state"]
    return {
        f"{name}/{part}": torch.as_tensor(value)
        for number, name in enumerate(names)
        for part, value in state.get(number, {}).items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, names: list[str], checkpoint: Checkpoint) -> None:
    """Put the tensors of a checkpoint back. Raises CheckpointError if they belong to other parameters."""
    number_of = {name: number for number, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for full, tensor in checkpoint.load_optimizer().items():
        name, _, part = full.rpartition("/")
        if name not in number_of:
            raise CheckpointError(f"{checkpoint.path} has the optimizer state of {name!r}, which this model lacks")
        state.setdefault(number_of[name], {})[part] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def load_parts(
    parts: Mapping[str, nn.Module], saved: Mapping[str, Mapping[str, Tensor]], checkpoint: Checkpoint
) -> None:
    """Load state dicts by module name. Raises CheckpointError, with the names, where they do not fit."""
    for name, module in parts.items():
        state = saved.get(name, {})
        expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
        found = {key: tuple(value.shape) for key, value in state.items()}
        if expected != found:
            wrong = [key for key in sorted(expected.keys() | found.keys()) if expected.get(key) != found.get(key)]
            raise CheckpointError(
                f"{checkpoint.path} does not fit the network {name!r}: "
                + "; ".join(
                    f"{key} is {found.get(key, 'missing')}, not {expected.get(key, 'known')}" for key in wrong[:5]
                ),
                hint="its model was built with another version: see lock.json beside it",
            )
        module.load_state_dict(dict(state))


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _leaves(child, f"{where}.{name}")
    elif value is not None:
        yield where, value


def _show(leaves: Mapping[str, Any], where: str) -> str:
    return json.dumps(leaves[where]) if where in leaves else "not set"


def _plain(table: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(table, default=list))  # tuples of a config are lists in a file
    return plain
