"""What went wrong with a plugin, as a record: shown by `list-plugins` and `doctor`, never only in a log."""

from __future__ import annotations

from typing import NamedTuple

from atlas_core.plugins.scan import Entry


class LoadError(Exception):
    """A target that cannot be used. `stage`: import, contract or hook; `cause`: the plugin's own exception, if any."""

    def __init__(self, stage: str, message: str, cause: BaseException | None = None) -> None:
        super().__init__(message)
        self.stage = stage
        self.cause = cause


class Failure(NamedTuple):
    """One thing that a plugin did wrong."""

    stage: str
    """scan, import, contract, config, build or event."""
    entry: Entry
    error: str
    traceback: str = ""

    @classmethod
    def of(cls, stage: str, entry: Entry, error: BaseException) -> Failure:
        """Record `error`, with the traceback of what the plugin itself raised."""
        import traceback

        cause = error.cause if isinstance(error, LoadError) and error.cause else error
        return cls(stage, entry, describe_error(error), "".join(traceback.format_exception(cause)))

    def __str__(self) -> str:
        return f"{self.entry.kind} {self.entry.id} ({self.entry.version}) failed at {self.stage}: {self.error}"


def describe_error(error: BaseException) -> str:
    """Return the error in one line: its type where that tells more than the message."""
    text = " ".join(str(error).split())
    return text if isinstance(error, LoadError) else f"{type(error).__name__}: {text}" if text else type(error).__name__
