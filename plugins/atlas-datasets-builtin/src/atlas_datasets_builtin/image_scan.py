"""Which files of a folder are images that can be read: every one is decoded once, and the verdict remembered."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

from atlas_core.errors import DataError, Problem
from atlas_datasets_builtin.image_reading import check

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SHOWN = 10
"""Corrupt files that an error lists by name."""

_log = logging.getLogger(__name__)


@attrs.frozen
class Scan:
    """What a folder holds."""

    files: tuple[str, ...]
    """Readable images, relative to the root, with forward slashes, sorted."""
    problems: tuple[Problem, ...]
    """The images that cannot be read, each with the reason."""


def scan(root: Path) -> Scan:
    """Find and decode every image under `root`, in threads.

    Raises DataError if the folder does not exist, holds no image, or none that can be read. Nothing is created in it.
    """
    _need_folder(root)
    names = sorted(_images(root))
    if not names:
        raise DataError(f"there is no image under {root}", hint=f"image files end in {', '.join(EXTENSIONS)}")
    verdicts = list(zip(names, _reasons(root, names), strict=True))
    problems = tuple(Problem(f"skipped: {reason}", file=str(root / name)) for name, reason in verdicts if reason)
    files = tuple(name for name, reason in verdicts if not reason)
    if not files:
        more = f" (the first {SHOWN} are shown)" if len(problems) > SHOWN else ""
        raise DataError(
            f"none of the {len(names)} image files under {root} can be read{more}",
            problems=problems[:SHOWN],
            hint="replace the files, or point data.root at another folder",
        )
    return Scan(files, problems)


def _need_folder(root: Path) -> None:
    if root.is_dir():
        return
    if root.exists():
        raise DataError(f"{root} is a file, not a folder of images", hint=f"did you mean data.root={root.parent}?")
    nearest = next(parent for parent in root.absolute().parents if parent.is_dir())
    try:
        inside = sorted(entry.name for entry in nearest.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except PermissionError:
        inside = []
    holds = f", which holds {', '.join(inside[:SHOWN])}" if inside else ""
    raise DataError(f"the folder {root} does not exist", hint=f"the nearest existing one is {nearest}{holds}")


def _images(root: Path) -> Iterator[str]:
    """Names of image files below root; symbolic links are followed; what is hidden, and what is no file, is left."""
    seen = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = Path(folder).resolve()
        if real in seen:  # a link that leads back up
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in files:
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".") and _may_be_read(Path(folder) / name):
                yield (Path(folder) / name).relative_to(root).as_posix()


def _may_be_read(path: Path) -> bool:
    """Whether it is a regular file: to open a pipe, a socket or a device may wait for ever."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:  # a link that leads nowhere: decoding it says so, and names it
        return True


def _reasons(root: Path, names: Sequence[str]) -> list[str]:
    """What is wrong with each file, from the cache where size and time of change are those of the last look."""
    cache = _cache_file(root)
    known = _read_cache(cache)
    found = [(root / name).stat() if (root / name).exists() else None for name in names]
    stamps = [f"{file.st_size}:{file.st_mtime_ns}" if file else "" for file in found]
    # A dangling link has no stamp, and is looked at each time.
    todo = [i for i, name in enumerate(names) if not stamps[i] or known.get(name, ("", ""))[0] != stamps[i]]
    with ThreadPoolExecutor() as pool:
        fresh = dict(zip(todo, pool.map(check, [root / names[i] for i in todo]), strict=True))
    reasons = [fresh[i] if i in fresh else known[name][1] for i, name in enumerate(names)]
    if fresh:
        _write_cache(cache, {name: (stamp, reason) for name, stamp, reason in zip(names, stamps, reasons, strict=True)})
    return reasons


def _cache_file(root: Path) -> Path:
    ours, xdg = os.environ.get("ATLAS_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    base = Path(ours) if ours else Path(xdg or "~/.cache").expanduser() / "atlas"
    return base / "image-folder" / f"{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:20]}.json"


def _read_cache(cache: Path) -> dict[str, tuple[str, str]]:
    try:
        table = json.loads(cache.read_text(encoding="utf-8"))
        return {str(name): (str(stamp), str(reason)) for name, (stamp, reason) in table.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        _log.debug("the cache %s is not readable and will be written anew: %s", cache, error)
        return {}


def _write_cache(cache: Path, table: dict[str, tuple[str, str]]) -> None:
    """The cache saves the next run a decode; where it cannot be written, that run decodes again."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cache.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            json.dump(table, file)
        Path(file.name).replace(cache)
    except OSError as error:
        _log.debug("the cache %s is not writable: %s", cache, error)
