"""k-diffusion's samplers without the rest of the package, whose import wants half a dozen others."""

from __future__ import annotations

import importlib.util
import sys
import types
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor


@lru_cache(maxsize=1)
def sampling() -> Any:
    """Return the module `k_diffusion.sampling`."""
    found = importlib.util.find_spec("k_diffusion")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("k-diffusion is not here: python -m pip install k-diffusion")
    root = Path(found.submodule_search_locations[0])
    package, utils = types.ModuleType("_k_diffusion"), types.ModuleType("_k_diffusion.utils")
    package.__path__ = [str(root)]
    utils.append_dims = _append_dims  # type: ignore[attr-defined]
    package.utils = utils  # type: ignore[attr-defined]
    sys.modules |= {"_k_diffusion": package, "_k_diffusion.utils": utils}
    spec = importlib.util.spec_from_file_location("_k_diffusion.sampling", root / "sampling.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_k_diffusion.sampling"] = module
    spec.loader.exec_module(module)
    return module


def _append_dims(x: Tensor, ndim: int) -> Tensor:
    return x[(...,) + (None,) * (ndim - x.ndim)]
