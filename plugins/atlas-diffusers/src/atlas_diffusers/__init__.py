"""diffusers and Atlas, in both directions.

Components (`atlas-core list-plugins`): the sampler and the grid `diffusers` are any of its schedulers; the process and
the parametrization `diffusers` are what its models were trained with; `diffusers-unet2d` and `diffusers-dit` are its
models. `AtlasScheduler` drives a pipeline of diffusers by a sampler of Atlas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas_diffusers.atlas_scheduler import AtlasScheduler as AtlasScheduler

__all__ = ["AtlasScheduler"]


def __getattr__(name: str) -> Any:
    if name != "AtlasScheduler":
        raise AttributeError(f"module 'atlas_diffusers' has no attribute {name!r}; it has {', '.join(__all__)}")
    from atlas_diffusers.atlas_scheduler import AtlasScheduler

    return AtlasScheduler
