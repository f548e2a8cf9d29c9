"""What something is, exactly, as a hashable key; and how many bytes it holds."""

from __future__ import annotations

import ctypes
import enum
import functools
import hashlib
import types
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

LEAVES = (type, types.ModuleType, types.BuiltinFunctionType, str, bytes, int, float, torch.dtype, torch.device)
"""Things that hold no tensors of their own, or do not own them."""


class _NoKeyError(Exception):
    """Something below the value cannot be compared by content."""


def content_key(*values: Any) -> Hashable | None:
    """Return a key that two lists of values share only if they are the same to the last bit; None if none can be made.

    Tensors are read: by shape, dtype, device and SHA-256 of their bytes, some 1.5 GB/s. Address and version would not
    do: an address is used again once its tensor is gone, and writes through `.data` or numpy leave no trace in the
    version. Components count by their class and by every field that takes part in their equality. A tensor that
    requires a gradient has no key (its graph is no content), nor has an object of unknown make.
    """
    try:
        return tuple(_key(value) for value in values)
    except _NoKeyError:
        return None


def _key(value: Any) -> Hashable:
    kind = type(value)
    if value is None or isinstance(value, enum.Enum | type) or kind in (bool, int, str, bytes):
        return kind, value  # with the kind, as 1 == True == 1.0
    if kind is float:
        return kind, value.hex()  # tells 0.0 from −0.0, and a NaN equals itself
    if isinstance(value, torch.dtype | torch.device):
        return kind, str(value)
    if isinstance(value, Tensor):
        return _tensor_key(value)
    if kind in (tuple, list):
        return kind, tuple(_key(item) for item in value)
    if kind is dict:
        return kind, tuple((_key(name), _key(item)) for name, item in value.items())
    if attrs.has(kind):
        return kind, tuple((field.name, _key(getattr(value, field.name))) for field in attrs.fields(kind) if field.eq)
    raise _NoKeyError(kind)


def _tensor_key(tensor: Tensor) -> Hashable:
    if tensor.requires_grad or tensor.layout != torch.strided:
        raise _NoKeyError(Tensor)
    read = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    size = read.numel() * read.element_size()
    # The bytes where they lie: no copy, and no need of numpy. `read` keeps them alive.
    seen = (ctypes.c_char * size).from_address(read.data_ptr()) if size else b""
    return Tensor, tuple(tensor.shape), str(tensor.dtype), str(tensor.device), hashlib.sha256(seen).digest()


def held_bytes(thing: Any) -> int:
    """Return the bytes of all tensors and arrays reachable from `thing`, each storage counted once."""
    sizes: dict[tuple[str, int], int] = {}
    seen: dict[int, Any] = {}  # the values keep the ids from being used again
    stack = [thing]
    while stack:
        value = stack.pop()
        if value is None or id(value) in seen or isinstance(value, LEAVES):
            continue
        seen[id(value)] = value
        if isinstance(value, Tensor):
            for part in _strided_parts(value):
                storage = part.untyped_storage()
                sizes[str(part.device), storage.data_ptr()] = storage.nbytes()
        elif isinstance(getattr(value, "nbytes", None), int):
            sizes["array", id(value)] = value.nbytes
        else:
            stack.extend(_children(value))
    return sum(sizes.values())


def _strided_parts(tensor: Tensor) -> Iterator[Tensor]:
    if tensor.layout == torch.strided:
        yield tensor
    elif tensor.layout == torch.sparse_coo:
        yield from (tensor._indices(), tensor._values())
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        yield from (tensor.ccol_indices(), tensor.row_indices(), tensor.values())
    else:
        yield from (tensor.crow_indices(), tensor.col_indices(), tensor.values())


def _children(value: Any) -> Iterable[Any]:
    """Everything that `value` refers to as data: items, attributes, the variables of a closure."""
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, types.FunctionType):
        return [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
    slots = (name for base in type(value).__mro__ for name in _slots(base))
    return [*getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in slots)]


def _slots(base: type) -> Iterable[str]:
    names = base.__dict__.get("__slots__", ())
    names = (names,) if isinstance(names, str) else names
    # Private names are mangled where they are stored.
    return [
        f"_{base.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name
        for name in names
        if name not in ("__dict__", "__weakref__")
    ]
