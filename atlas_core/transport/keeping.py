"""What a transport leaves: the coupling as tensors, and the mapped points in the format of the source."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atlas_core.errors import PluginError
from atlas_core.runs.atomic import write_atomically
from atlas_core.transport.measure import potentials_tell
from atlas_core.transport.side import Side

PLAN_ENTRIES = 2**26
"""Most entries of a plan that is formed to be stored: 512 MiB in float64."""
DENSE_ENTRIES = 2**24
"""Most entries of a plan that is stored whole, in float32: 64 MiB."""


def keep_coupling(
    path: Path, coupling: Any, solver: Any, source: Side, target: Side, mapped: Tensor, about: Mapping[str, Any]
) -> str:
    """Write coupling.safetensors, and return what it holds of the plan.

    Potentials f and g with ε say all of an entropic plan; of another one the entries are stored, only those above zero
    where that is shorter. `about` goes into the header of the file, as JSON.
    """
    from safetensors.torch import save

    tensors = {"source": source.points, "target": target.points, "mapped": mapped}
    tensors |= {"source_weights": source.masses, "target_weights": target.masses}
    if potentials_tell(coupling, solver, source, target):
        tensors |= {"f": coupling.f, "g": coupling.g}
        tensors["epsilon"] = torch.as_tensor(coupling.epsilon, dtype=torch.float64)
        said = "its potentials f and g"
    else:
        plan, said = _plan(coupling, len(source), len(target))
        tensors |= plan
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, save(contiguous, metadata={"atlas": json.dumps({"schema": 1, **about})}))
    return said


def _plan(coupling: Any, n: int, m: int) -> tuple[dict[str, Tensor], str]:
    if n * m > PLAN_ENTRIES:
        return {}, f"nothing of the plan: it has {n * m:,} entries".replace(",", " ")
    plan = coupling.plan().detach()
    rows, columns = plan.nonzero(as_tuple=True)
    if 3 * len(rows) <= n * m or n * m > DENSE_ENTRIES:
        entries = {"plan_rows": rows, "plan_columns": columns, "plan_values": plan[rows, columns]}
        return entries, f"the {len(rows):,} entries of the plan that are not 0".replace(",", " ")
    return {"plan": plan.float()}, "the plan"


def keep_mapped(folder: Path, source: Side, mapped: Tensor) -> str:
    """Write the mapped points as the source's dataset reads them, else as mapped.npy; return the file or folder.

    Raises PluginError if the dataset fails.
    """
    items = source.items(mapped.detach().cpu())
    encode = getattr(source.dataset, "encode", None)
    try:
        contents = list(encode(items, "mapped")) if encode is not None else list(_as_array(items))
    except Exception as error:
        named = type(source.dataset).__name__
        raise PluginError(f"dataset {named} cannot write mapped points: {type(error).__name__}: {error}") from error
    for name, content in contents:
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or not inside.parts[0].startswith("mapped"):
            raise PluginError(f"dataset {type(source.dataset).__name__} would write outside of mapped…: {name}")
        write_atomically(folder / inside, content)
    return PurePosixPath(contents[0][0]).parts[0]


def _as_array(items: Tensor) -> Iterable[tuple[str, bytes]]:
    out = io.BytesIO()
    np.save(out, items.numpy(), allow_pickle=False)
    yield "mapped.npy", out.getvalue()
