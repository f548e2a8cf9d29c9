"""Store named tensors in safetensors files: nothing is ever pickled, and tied weights are stored once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from atlas_core.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

_ALIASES = "aliases"


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` to `path`. Two names of one tensor (tied weights) are stored once and come back as one.

    Raises RunError, with the reason, where the disk refuses.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    stored, aliases = _without_sharing(tensors)
    try:
        save_file(stored, path, metadata={_ALIASES: json.dumps(aliases)})
    except SafetensorError as error:  # it hides the errno in its text
        raise _as_os_error(error, path) from error
    # It makes files that only their owner may read; ours are as public as the others of the run.
    path.chmod(0o666 & ~_umask())


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read what `write_tensors` wrote, on the CPU."""
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        aliases = json.loads((file.metadata() or {}).get(_ALIASES, "{}"))
    return tensors | {name: tensors[stored] for name, stored in aliases.items()}


def digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _without_sharing(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[object, ...], str] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach()
        key = (value.data_ptr(), value.device, value.dtype, tuple(value.shape), value.stride())
        if value.numel() and key in seen:
            aliases[name] = seen[key]
            continue
        seen[key] = name
        storage = value.untyped_storage().data_ptr()
        # A view of a storage that another tensor uses would be refused: safetensors wants each byte once.
        stored[name] = value.contiguous().clone() if storage in storages else value.contiguous()
        storages.add(storage)
    return stored, aliases


def _as_os_error(error: Exception, path: Path) -> Exception:
    import os
    import re

    code = re.search(r"os error (\d+)", str(error))
    if code:
        return OSError(int(code.group(1)), os.strerror(int(code.group(1))), str(path))
    return RunError(f"cannot write {path}: {error}")
