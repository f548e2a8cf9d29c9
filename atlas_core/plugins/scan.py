"""Reads what is installed, and imports none of it: the entry points on disk are the index.

Only `importlib.metadata` is used, and of it only the finding and reading of files: parsing every METADATA as an e-mail,
as its `name` and `version` do, would cost more than the rest of a listing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import Distribution, distributions
from typing import NamedTuple

from atlas_core.plugins.kinds import HOOKS, KIND_OF_GROUP, UNKNOWN

_HEADER = re.compile(r"^(Name|Version):[ \t]*(\S+)", re.MULTILINE)
_SEPARATORS = re.compile(r"[-_.]+")
_NAME = re.compile(r"\w[\w.+-]*")
_TARGET = re.compile(r"([\w.]+)\s*(?::\s*([\w.]+)\s*)?(?:\[.*\])?")


class Entry(NamedTuple):
    """One row of the index: a component, or a module of hooks."""

    kind: str
    name: str
    provider: str
    """The installed distribution that it comes from."""
    version: str
    target: str
    """`package.module:Attribute`, imported when the component is first used and not before."""
    status: str = "unverified"
    """ok, broken, ambiguous, shadowed, disabled, incompatible, slow or unverified."""
    reason: str = ""

    @property
    def id(self) -> str:
        """The name that no other provider can take: `provider:name`."""
        return f"{self.provider}:{self.name}"


class Installed(NamedTuple):
    """A distribution that declares something for Atlas."""

    provider: str
    version: str
    location: str
    """Folder that its metadata lies in."""
    egg_info: bool
    """Described by an egg-info, which builds leave behind, and not by the dist-info that an installer writes."""
    metadata: str
    """Header of METADATA."""
    entries: tuple[Entry, ...]
    distribution: Distribution

    @property
    def unreadable(self) -> bool:
        """Whether Python's own `importlib.metadata.entry_points()` raises because of this distribution."""
        return any(entry.status == "broken" and UNREADABLE in entry.reason for entry in self.entries)


class Readable(Distribution):
    """Stands before a distribution whose entry points only we can read (see `shield`); a scan passes over it."""


UNREADABLE = "Python itself cannot read this file, so that `import torch` fails outside Atlas"


def normalised(provider: str) -> str:
    """Return the one spelling of a distribution's name: `Acme_Kernels` and `acme.kernels` are `acme-kernels`."""
    return _SEPARATORS.sub("-", provider).lower()


def scan(found: Iterable[Distribution] | None = None) -> list[Installed]:
    """Return the distributions with entry points for Atlas, the ones that Python would use first.

    Nothing in their files can make it raise: what cannot be read becomes an entry with status `broken`.
    """
    installed: list[Installed] = []
    for distribution in distributions() if found is None else found:
        if isinstance(distribution, Readable):
            continue
        try:
            text = distribution.read_text("entry_points.txt") or ""
        except UnicodeDecodeError as error:
            if b"atlas_core." in error.object:
                problem = f"entry_points.txt is not UTF-8 ({error.reason} at byte {error.start}). {UNREADABLE}"
                installed.append(_read(distribution, [(UNKNOWN, "entry_points.txt", "", "broken", problem)]))
        else:
            if "atlas_core." in text:
                installed.append(_read(distribution, parse(text)))
    return _marked_shadowed(installed)


def _read(distribution: Distribution, rows: Iterable[tuple[str, str, str, str, str]]) -> Installed:
    dist_info = distribution.read_text("METADATA")
    metadata = (dist_info or distribution.read_text("PKG-INFO") or "").partition("\n\n")[0]
    header = dict(_HEADER.findall(metadata))
    location = str(distribution.locate_file(""))
    provider, version = normalised(header.get("Name", f"nameless in {location}")), header.get("Version", "?")
    entries = tuple(Entry(kind, name, provider, version, *rest) for kind, name, *rest in rows)
    return Installed(provider, version, location, dist_info is None, metadata, entries, distribution)


def parse(text: str) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield kind, name, target, status and reason of every line of an entry_points.txt that concerns Atlas."""
    group = ""
    seen = set()
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1].strip()
        elif line and line[0] not in "#;" and group.startswith("atlas_core.") and (group, line) not in seen:
            seen.add((group, line))
            yield _parse_line(group, line)


def _parse_line(group: str, line: str) -> tuple[str, str, str, str, str]:
    name, equals, value = (part.strip() for part in line.partition("="))
    kind = KIND_OF_GROUP.get(group, UNKNOWN)
    target = _TARGET.fullmatch(value)
    module, attribute = target.groups() if target else ("", None)
    dotted = f"{module}.{attribute}" if attribute else module
    if kind == UNKNOWN:
        from atlas_core.plugins.suggest import did_you_mean

        return kind, name, value, "broken", f"there is no group {group!r}{did_you_mean(group, KIND_OF_GROUP)}"
    if not _NAME.fullmatch(name) or not all(part.isidentifier() for part in dotted.split(".")):
        reason = f"malformed entry point {line!r}: expected `name = package.module:Attribute`"
        return kind, name, value, "broken", reason if equals else f"{reason}. {UNREADABLE}"
    if kind != HOOKS and not attribute:
        return kind, name, value, "broken", f"entry point {line!r} names a module: expected `package.module:Attribute`"
    return kind, name, f"{module}:{attribute}" if attribute else module, "unverified", ""


def _marked_shadowed(installed: Sequence[Installed]) -> list[Installed]:
    """Keep one install of each distribution; the entries of the others say that they are shadowed, and by what.

    A dist-info beats an egg-info wherever it lies: the latter is what an old build left in a folder. Between two of a
    form the first on sys.path is the one whose code Python imports, so any other answer would describe another program.
    """
    used: dict[str, Installed] = {}
    result = []
    for one in sorted(installed, key=lambda one: (one.provider, one.egg_info)):  # stable: sys.path order within
        winner = used.setdefault(one.provider, one)
        if winner is one:
            result.append(one)
        elif (one.version, set(one.entries)) != (winner.version, set(winner.entries)):
            what = "stale egg-info" if one.egg_info else "install"
            reason = (
                f"{what} of {one.provider} {one.version} in {one.location}: "
                f"{winner.version} in {winner.location} is used; delete the other"
            )
            rows = tuple(entry._replace(status="shadowed", reason=reason) for entry in one.entries)
            result.append(one._replace(entries=rows))
    return result
