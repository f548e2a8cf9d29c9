"""Each distribution builds as a wheel that holds its own package alone, and the wheels work without the repository."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "atlas_core": ROOT,
    "atlas_kernels_builtin": ROOT / "atlas_kernels_builtin",
    "atlas_solvers_builtin": ROOT / "atlas_solvers_builtin",
    **{folder.name.replace("-", "_"): folder for folder in sorted((ROOT / "plugins").glob("atlas-*"))},
}


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder with the wheel of every distribution, built once for all pytest processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "wheels"
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            for source in FOLDERS.values():
                build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
                subprocess.run([*build, str(source)], check=True, capture_output=True)
            (folder / "done").touch()
    return folder


@pytest.mark.parametrize("package", sorted(FOLDERS))
def test_a_wheel_holds_its_own_package_and_nothing_else(wheels: Path, package: str) -> None:
    (wheel,) = wheels.glob(f"{package}-2.*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = email.message_from_bytes(archive.read(next(n for n in names if n.endswith("/METADATA"))))
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {package}
    assert f"{package}/py.typed" in names
    assert not [name for name in names if "/tests/" in name or "__pycache__" in name]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Summary"]
    internal = [need for need in metadata.get_all("Requires-Dist", []) if need.startswith("atlas-")]
    for need in internal:
        assert "<3" in need, need
        assert ">=2" in need, need
    if package != "atlas_core":
        assert any(need.startswith("atlas-core") for need in internal)


def test_the_extra_all_brings_every_distribution_of_ours() -> None:
    import tomllib

    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["all"]
    names = {need.partition(">")[0] for need in extra}
    assert names == {name.replace("_", "-") for name in FOLDERS if name.endswith("_builtin")}


def test_core_and_solvers_install_from_their_wheels_and_run(wheels: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
    needed = ["atlas-core", "atlas-solvers-builtin", "atlas-kernels-builtin"]
    subprocess.run([*install, "--find-links", str(wheels), *needed], check=True)
    environment = {**os.environ, "PYTHONPATH": str(target), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    code = f"""
import atlas_core, torch
assert atlas_core.__file__.startswith({str(target)!r}), atlas_core.__file__
x = torch.linspace(0, 1, 5)[:, None]
print(atlas_core.build("solver", "sinkhorn").solve(x, x + 1).converged.item())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    assert done.stdout.strip() == "True"
