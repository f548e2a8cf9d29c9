"""Keeps Python's own readers of entry points alive beside a plugin whose entry_points.txt cannot be read.

One line without `=` makes `importlib.metadata.entry_points()` raise in every program of the environment. torch and
triton call it while they are imported, so such a plugin would end every command. Python's documented way to add
distributions serves to put a readable copy before the broken file; of two with one name, the first counts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, DistributionFinder
from typing import Any

from atlas_core.plugins.scan import Installed, Readable, scan


class _ReadableCopy(Readable):
    """A distribution without the lines that nobody can read."""

    def __init__(self, installed: Installed) -> None:
        self.installed = installed

    def read_text(self, filename: str) -> str | None:
        if filename != "entry_points.txt":
            return self.installed.distribution.read_text(filename)
        try:
            lines = (self.installed.distribution.read_text(filename) or "").splitlines()
        except UnicodeDecodeError:
            return ""
        return "\n".join(line for line in lines if "=" in line or line.lstrip().startswith(("[", "#")))

    def locate_file(self, path: Any) -> Any:
        return self.installed.distribution.locate_file(path)


class _Finder(DistributionFinder):
    def __init__(self, copies: Iterable[_ReadableCopy]) -> None:
        self.copies = list(copies)

    def find_spec(self, *_: Any) -> None:
        """Find no module: this finder knows distributions only."""

    def find_distributions(self, context: Any = None) -> Iterator[Distribution]:
        """Yield the readable copies that the context asks for."""
        for copy in self.copies:
            wanted = context is None or context.name in (None, copy.installed.provider)
            if wanted and (context is None or context.path is sys.path or copy.installed.location in context.path):
                yield copy


def protect(installed: Iterable[Installed] | None = None) -> None:
    """Put a readable copy before each unreadable entry-point file. Every registry does; call it before importing torch.

    Without such a file it changes nothing.
    """
    unreadable = [one for one in (scan() if installed is None else installed) if one.unreadable]
    known = {
        c.installed.location + c.installed.provider for f in sys.meta_path if isinstance(f, _Finder) for c in f.copies
    }
    copies = [_ReadableCopy(one) for one in unreadable if one.location + one.provider not in known]
    if copies:
        sys.meta_path.insert(0, _Finder(copies))
