"""The errors that a user may meet: what went wrong, where, and what to type next.

Every one of them is an `AtlasError`; the command line prints it without a traceback and exits with its `exit_code`.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs


@attrs.frozen
class Problem:
    """One thing that is wrong with what the user gave us."""

    message: str
    where: str = ""
    """Path of the value, as in `$.sampler.steps`; empty when the problem has no place in a config."""
    file: str = ""
    line: int = 0
    hint: str = ""
    """The next step: the nearest valid name, a command, a range."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        head = " ".join(part for part in (self.where, f"({place})" if place else "") if part)
        text = f"{head}: {self.message}" if head else self.message
        return f"{text}\n    {self.hint}" if self.hint else text


class AtlasError(Exception):
    """Something that Atlas can explain. `exit_code` is what the process ends with: 2 for usage, 1 for the rest."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.problems = tuple(problems)

    def __str__(self) -> str:
        lines = [self.message, *(f"  - {problem}" for problem in self.problems)]
        if self.hint:
            lines.append(f"  {self.hint}")
        return "\n".join(lines)


class UsageError(AtlasError):
    """A command, a name or an argument that cannot be meant."""

    exit_code = 2


class ConfigError(UsageError):
    """A config with one or more problems; `problems` lists all of them, each with its place."""


class ComponentError(UsageError):
    """A component name that is unknown, ambiguous, disabled or not allowed."""


class PluginError(AtlasError):
    """An installed plugin that cannot be used: it fails at import, has the wrong type, wants another API version."""


class DataError(AtlasError):
    """Data that cannot be read: an empty folder, only corrupt images, a missing root."""


class CheckpointError(AtlasError):
    """A checkpoint that cannot be opened: missing, truncated, foreign, or in need of a plugin that is not installed."""


class RunError(AtlasError):
    """A run that cannot go on: a folder without write permission, a full disk, a loss that is no longer finite."""
