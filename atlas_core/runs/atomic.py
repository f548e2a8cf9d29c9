"""Write files and folders so that a reader sees all of them or nothing, whatever happens to the writer.

Everything is written under a temporary name in the same folder, flushed to the disk and renamed. A killed writer leaves
at most a `.tmp-…` entry, which no reader looks at and the next writer removes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from atlas_core.errors import RunError

TEMPORARY = ".tmp-"
"""Start of the name of everything that is not finished."""


def write_atomically(path: Path, data: str | bytes, *, intact: str = "") -> None:
    """Replace the file `path` by `data`; a reader sees the old content or the new.

    `intact` says, in the error, what the user still has. Raises RunError when the disk refuses.
    """
    with saying(path, intact):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        try:
            with temporary.open("wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


@contextlib.contextmanager
def atomic_folder(path: Path, *, intact: str = "") -> Iterator[Path]:
    """Yield an empty folder to fill; when the block ends it becomes `path`, replacing what was there.

    If the block raises, or the process dies in it, `path` is as it was before. Raises RunError when the disk refuses.
    """
    with saying(path, intact):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        temporary = _temporary(path)
        temporary.mkdir()
        try:
            yield temporary
            for file in sorted(temporary.iterdir()):
                _sync_file(file)
            _sync_folder(temporary)
            if path.exists():
                # A folder cannot be renamed onto a full one; the old one steps aside under a name that nobody reads.
                path.replace(_temporary(path))
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            remove_leftovers(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in `folder`; never an error, since nobody reads it."""
    with contextlib.suppress(OSError):
        for entry in folder.glob(f"{TEMPORARY}*"):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink()


@contextlib.contextmanager
def saying(path: Path, intact: str = "", *, then: str = "resume the run") -> Iterator[None]:
    """Turn what the operating system refuses about `path` into a RunError that says what is left and what to do.

    `then`: the next step once the disk is as it should be.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"cannot write {path}: {reason[:1].lower() + reason[1:]}"
        raise RunError(
            f"{message}; {intact or 'what was there before is intact'}", hint=_advice(error, path, then)
        ) from error


def _advice(error: OSError, path: Path, then: str) -> str:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"free some space (`df -h {_existing(path)}` shows how much is left), then {then}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"give yourself the right to write there (`ls -ld {_existing(path)}`), or choose another folder for the run"
        )
    if error.errno == errno.ENOTDIR:
        return f"{_existing(path)} is no folder: move it away, then {then}"
    return f"look at the disk (`ls -ld {_existing(path)}`), then {then}"


def _existing(path: Path) -> Path:
    for parent in (path, *path.parents):
        with contextlib.suppress(OSError):  # where not even looking is allowed, the folder above is named
            if parent.exists():
                return parent
    return Path(path.anchor)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:12]}")


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    # Without it a power cut may forget the rename although the files are on the disk. Windows cannot open a folder.
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
