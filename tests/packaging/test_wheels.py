"""Each distribution builds as a wheel that holds its own package alone, and the wheels work without the repository."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import sysconfig
import venv
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


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """The Python of a new environment with every third-party distribution of this one, and none of ours.

    They are linked, not downloaded: pip finds them installed, and can get what is missing from a folder alone.
    """
    venv.create(tmp_path / "environment", symlinks=True)
    python = tmp_path / "environment" / "bin" / "python"
    show = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", show], capture_output=True, text=True, check=True).stdout.strip())
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(folder).iterdir():
            if not entry.name.startswith(("atlas_", "_editable_impl_atlas_", "__pycache__")):
                (site / entry.name).symlink_to(entry)
    return python


def pip_install(python: Path, wheels: Path, *names: str) -> set[str]:
    """Install by name, as a user would, with the folder of wheels as the only index; return what was installed."""
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    install = [*pip, "install", "--no-compile", "--no-index", "--find-links", str(wheels), *names]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("Successfully installed "))
    return {word.rpartition("-")[0] for word in line.split()[2:]}


def run_in(python: Path, folder: Path, code: str) -> str:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, cwd=folder, env={**clean, "XDG_CACHE_HOME": str(folder)}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_core_and_solvers_install_with_what_they_need_and_run(wheels: Path, environment: Path, tmp_path: Path) -> None:
    installed = pip_install(environment, wheels, "atlas-core", "atlas-solvers-builtin")
    assert installed == {"atlas-core", "atlas-solvers-builtin", "atlas-kernels-builtin"}
    code = f"""
import atlas_core, torch
assert atlas_core.__file__.startswith({str(environment.parents[1])!r}), atlas_core.__file__
x = torch.linspace(0, 1, 5)[:, None]
print(atlas_core.build("solver", "sinkhorn").solve(x, x + 1).converged.item())
"""
    assert run_in(environment, tmp_path, code) == "True"


def test_the_extra_all_installs_and_lists_every_builtin(wheels: Path, environment: Path, tmp_path: Path) -> None:
    builtins = {name.replace("_", "-") for name in FOLDERS if name.endswith("_builtin")}
    assert pip_install(environment, wheels, "atlas-core[all]") == {"atlas-core", *builtins}
    code = """
from atlas_core.plugins.registry import default_registry
print(*sorted({entry.provider for entry in default_registry().entries()}))
"""
    assert set(run_in(environment, tmp_path, code).split()) == builtins
