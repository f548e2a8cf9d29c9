"""Recognise what is not a checkpoint of ours, to say so before anything reads it."""

from __future__ import annotations

import difflib
from pathlib import Path

from atlas_core.errors import CheckpointError

_PICKLE_SUFFIXES = frozenset({".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".joblib"})
_ZIP = b"PK\x03\x04"


def is_pickle(path: Path) -> bool:
    """Whether the file is, or by its name claims to be, a pickle: torch.save writes a zip with one inside."""
    if path.suffix.lower() in _PICKLE_SUFFIXES:
        return True
    with path.open("rb") as file:
        head = file.read(9)
    # A safetensors file begins with the length of its header, whose bytes may look like those of a pickle.
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") + 8 <= path.stat().st_size:
        return False
    return head.startswith(_ZIP) or (len(head) >= 2 and head[0] == 0x80 and head[1] <= 5)


def refuse_file(path: Path) -> CheckpointError:
    """Say why a file cannot be opened as a checkpoint, which is a folder."""
    if is_pickle(path):
        return pickle_error(path)
    if path.name.endswith(".safetensors"):
        return CheckpointError(
            f"{path} is one file of weights, without the config that it was trained with",
            hint=f"open the folder that holds it, `atlas-core sample {path.parent}`",
        )
    return CheckpointError(f"{path} is a file; a checkpoint is a folder", hint=_expected())


def pickle_error(path: Path) -> CheckpointError:
    """Say that a pickle is never opened."""
    return CheckpointError(
        f"{path} is a pickle: opening it would run whatever code its author put in, so Atlas never does",
        hint=f"open a run of Atlas instead (safetensors and JSON); {_expected()}",
    )


def missing_error(path: Path) -> CheckpointError:
    """Say that there is nothing, and what is beside it."""
    parent = path.parent
    names = sorted(entry.name for entry in parent.iterdir() if entry.is_dir()) if parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if near:
        hint = f"did you mean {', '.join(str(parent / name) for name in near)}?"
    elif names:
        hint = f"{parent} holds {', '.join(names[:10])}"
    else:
        hint = "`atlas-core run digits` makes a run"
    return CheckpointError(f"there is no checkpoint at {path}: it does not exist", hint=hint)


def foreign_error(path: Path) -> CheckpointError:
    """Say that a folder is neither a run nor a checkpoint, and what it seems to be."""
    names = sorted(entry.name for entry in path.iterdir())
    pickled = [name for name in names if (path / name).is_file() and is_pickle(path / name)]
    if "model_index.json" in names:
        what = "it is a pipeline of the diffusers library"
    elif pickled:
        what = f"it holds a pickle, {pickled[0]}, which Atlas never opens"
    elif not names:
        what = "it is empty"
    else:
        what = f"it holds {', '.join(names[:5])}{', …' if len(names) > 5 else ''}, but no state.json"
    return CheckpointError(f"{path} is not a checkpoint of Atlas: {what}", hint=_expected())


def _expected() -> str:
    return "give a run folder as in `atlas-core sample runs/digits`, or one of its checkpoints/step-…"
