"""Decides whether a plugin was made for this atlas-core: its Requires-Dist lines are held against our version."""

from __future__ import annotations

import re
from functools import cache

_REQUIRES = re.compile(
    r"^Requires-Dist:\s*atlas[-_.]core\b(?![-_.]\w)\s*(?:\[[^]]*\])?\s*(.*)$", re.IGNORECASE | re.MULTILINE
)
_PLAIN_CLAUSE = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*(\d+(?:\.\d+)*)\s*")
_PLAIN_VERSION = re.compile(r"\d+(\.\d+)*")


def unmet(metadata: str, version: str) -> str:
    """Return the requirement on atlas-core that `version` does not meet, as `>=3,<4`; empty where all are met.

    `metadata` is the header of METADATA or PKG-INFO. Requirements of an extra are no requirements of the plugin.
    """
    for requirement in _REQUIRES.findall(metadata):
        specifier, _, marker = requirement.strip().partition(";")
        specifier = specifier.strip().strip("()")
        if not specifier or specifier.startswith("@") or "extra" in marker:
            continue
        if not _satisfied(specifier, version) and _applies(marker.strip()):
            return str(specifier)
    return ""


@cache
def _satisfied(specifier: str, version: str) -> bool:
    clauses = [_PLAIN_CLAUSE.fullmatch(clause) for clause in specifier.split(",")]
    if _PLAIN_VERSION.fullmatch(version) and all(clauses):
        ours = _release(version)
        return all(_compare(clause[1], ours, _release(clause[2])) for clause in clauses if clause)
    # Wildcards, ~=, pre-releases: what packaging is for. Its import would double a listing's own time, hence the above.
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return SpecifierSet(specifier).contains(version, prereleases=True)
    except InvalidSpecifier:
        return False


def _release(version: str) -> tuple[int, ...]:
    numbers = [int(part) for part in version.split(".")]
    while len(numbers) > 1 and not numbers[-1]:
        numbers.pop()  # 2 == 2.0 == 2.0.0
    return tuple(numbers)


def _compare(operator: str, ours: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
    return {
        ">=": ours >= theirs,
        "<=": ours <= theirs,
        "==": ours == theirs,
        "!=": ours != theirs,
        ">": ours > theirs,
        "<": ours < theirs,
    }[operator]


def _applies(marker: str) -> bool:
    if not marker:
        return True
    from packaging.markers import InvalidMarker, Marker

    try:
        return Marker(marker).evaluate()
    except InvalidMarker:
        return True
