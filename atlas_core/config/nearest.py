"""The nearest valid name, as a hint of its own."""

from __future__ import annotations

from collections.abc import Iterable

from atlas_core.plugins.suggest import nearest


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return `Did you mean 'steps'?`, or all options where none is near; empty without options."""
    known = sorted(set(options))
    near = nearest(word, known)
    if near:
        return f"Did you mean {' or '.join(repr(name) for name in near)}?"
    return f"Known: {', '.join(known)}." if known else ""
