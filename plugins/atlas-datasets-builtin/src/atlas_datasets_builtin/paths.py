"""Paths that a config gives."""

from __future__ import annotations

from pathlib import Path


def absolute(path: str) -> str:
    """Fix a path when the config is read, so that a run finds its data again from any working directory.

    Raises ValueError for the home folder of a user that does not exist.
    """
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError as error:  # of expanduser
        raise ValueError(f"there is no home folder for {path}") from error
