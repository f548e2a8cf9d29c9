"""Making a model of diffusers from a config, or from a folder that diffusers has saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def made(cls: Any, options: Mapping[str, Any], folder: str | None) -> Any:
    """Return `cls` with random weights, or with those of `folder`; nothing is ever downloaded.

    Raises ValueError for a folder that holds no such model, for settings beside it, and for settings that it refuses.
    """
    if folder is None:
        try:
            return cls(**options)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ValueError(f"{cls.__name__} refuses these settings: {error}") from error
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(
            f"weights: {folder} holds no config.json: it must be a folder of {cls.__name__}.save_pretrained"
        )
    try:
        return cls.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"weights: {folder} is no {cls.__name__}: {error}") from error


def refuse_other_size(shape: tuple[int, int, int], channels: int, size: Any, name: str) -> None:
    """Raise ValueError where the data's (c, h, w) is not what the model was made for."""
    sizes = (size, size) if isinstance(size, int) else tuple(size or shape[1:])
    if shape != (channels, *sizes):
        raise ValueError(f"{name} takes images of {(channels, *sizes)}; the data has {shape}")
