"""Atlas: generative transport in PyTorch, in which every part is a plugin.

The names below load what they need when they are first used: `import atlas_core` imports neither torch nor numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas_core.building import build as build
    from atlas_core.config.presets import Preset as Preset
    from atlas_core.fields import component as component
    from atlas_core.fields import derived as derived
    from atlas_core.pipeline import Pipeline as Pipeline
    from atlas_core.pipeline import load as load
    from atlas_core.plugins.hookspecs import ComponentSpec as ComponentSpec
    from atlas_core.plugins.hookspecs import hookimpl as hookimpl

__version__ = "2.0.0"

_HOME = {
    "ComponentSpec": "atlas_core.plugins.hookspecs",
    "Pipeline": "atlas_core.pipeline",
    "Preset": "atlas_core.config.presets",
    "build": "atlas_core.building",
    "component": "atlas_core.fields",
    "derived": "atlas_core.fields",
    "hookimpl": "atlas_core.plugins.hookspecs",
    "load": "atlas_core.pipeline",
}

__all__ = ["ComponentSpec", "Pipeline", "Preset", "__version__", "build", "component", "derived", "hookimpl", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'atlas_core' has no attribute {name!r}; it has {', '.join(__all__)}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
