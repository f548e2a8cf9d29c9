"""Installs small distributions for tests, on an extra path: a package, and the dist-info that an installer would write.

Tests reach it through the fixtures of `conftest.py`, since test modules do not import each other.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

SAMPLER = '''
import attrs

@attrs.frozen
class {name}:
    """A sampler that does nothing."""

    accepts = frozenset({{"denoiser"}})
    stochastic = False

    def nfe(self, steps):
        return steps

    def steps(self, denoiser, x, times, *, noise=None):
        yield from ()
'''
"""Source of a component with a right shape that needs neither torch nor numpy."""


def make_distribution(
    root: Path,
    name: str,
    version: str = "1.0",
    *,
    entry_points: str,
    files: Mapping[str, str],
    requires: Sequence[str] = ("atlas-core>=2,<3",),
    egg_info: bool = False,
) -> Path:
    """Write a distribution into `root`, which goes on sys.path, and return the folder of its metadata."""
    root.mkdir(parents=True, exist_ok=True)
    underscored = name.replace("-", "_")
    folder = root / (f"{underscored}.egg-info" if egg_info else f"{underscored}-{version}.dist-info")
    metadata = "".join(
        [
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            *(f"Requires-Dist: {requirement}\n" for requirement in requires),
            "\nA distribution of the tests.\n",
        ]
    )
    written = {
        **files,
        f"{folder.name}/{'PKG-INFO' if egg_info else 'METADATA'}": metadata,
        f"{folder.name}/entry_points.txt": entry_points,
    }
    record = []
    for path, content in written.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content, encoding="utf-8")
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        record.append(f"{path},sha256={digest},{len(content.encode())}\n")
    if not egg_info:
        (folder / "RECORD").write_text("".join([*record, f"{folder.name}/RECORD,,\n"]), encoding="utf-8")
    return folder


def install_wheel(root: Path, source: Path, name: str, *, entry_points: str, files: Mapping[str, str]) -> None:
    """Build a wheel with hatchling from `source` and let pip install it into `root`, both offline."""
    lines = [
        f'[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n[project]\nname = "{name}"',
        'version = "1.0"\ndependencies = ["atlas-core>=2,<3"]',
        "[tool.hatch.build.targets.wheel]",
        f"only-include = {sorted(files)}",
        entry_points,
    ]
    source.mkdir(parents=True)
    (source / "pyproject.toml").write_text("\n".join(lines), encoding="utf-8")
    for path, content in files.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(content, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", str(root), str(source)], check=True)
