"""Turns a name that nobody knows into the one that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return up to `count` names of `known` that look like `name`, best first; the order of `known` does not matter."""
    from difflib import get_close_matches

    spelled = {candidate.lower(): candidate for candidate in sorted(known)}
    return [spelled[match] for match in get_close_matches(name.lower(), sorted(spelled), n=count, cutoff=0.6)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'heun'?`, or nothing where no name is near."""
    matches = nearest(name, known)
    return f"; did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""
