"""Writes a resolved config as TOML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomlkit


def to_toml(table: Mapping[str, Any]) -> str:
    """Return the TOML of a resolved config, plain values before tables, so that reading it gives the same table."""
    return tomlkit.dumps(table)
