"""What tests of plugins share: distributions on an extra path, and commands run with that path."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType

import pytest

from atlas_core.plugins.policy import Policy
from atlas_core.plugins.registry import Registry
from atlas_core.plugins.scan import scan
from atlas_core.plugins.verdicts import Verdicts


@pytest.fixture(scope="session")
def make() -> ModuleType:
    """The module `make_distribution.py`."""
    spec = importlib.util.spec_from_file_location("make_distribution", Path(__file__).with_name("make_distribution.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sampler(make: ModuleType, tmp_path: Path) -> Callable[..., Path]:
    """Install a distribution with one working sampler, `name` of `provider`, into `tmp_path / folder`."""

    def install(provider: str, name: str, *, folder: str = "site", **options: object) -> Path:
        module = provider.replace("-", "_")
        return make.make_distribution(
            tmp_path / folder,
            provider,
            entry_points=f"[atlas_core.samplers]\n{name} = {module}:Sampler\n",
            files={f"{module}.py": make.SAMPLER.format(name="Sampler")},
            **options,
        )

    return install


@pytest.fixture
def registry_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Registry]]:
    """Make registries of what lies in folders of `tmp_path` alone; what they import is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.delenv("ATLAS_PLUGINS", raising=False)
    monkeypatch.delenv("ATLAS_DISABLE_PLUGINS", raising=False)

    def registry(policy: Policy | None = None, folders: tuple[str, ...] = ("site",)) -> Registry:
        path = [str(tmp_path / folder) for folder in folders]
        monkeypatch.setattr(sys, "path", [*path, *(each for each in sys.path if each not in path)])
        found = scan(distributions(path=path))
        return Registry(
            policy or Policy.from_environment(), installed=found, verdicts=Verdicts(tmp_path / "cache.json")
        )

    yield registry
    for name in set(sys.modules) - before:
        if name.startswith(("acme", "beta")):
            del sys.modules[name]


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python code in a fresh process, with extra folders on its path and its own cache."""

    def run(
        code: str, *arguments: str, path: tuple[Path, ...] = (), cache: Path, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ATLAS_")}
        settings = {"PYTHONPATH": os.pathsep.join(map(str, path)), "XDG_CACHE_HOME": str(cache), "COLUMNS": "200"}
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**inherited, **settings, **environment},
            cwd=cache,  # neither the repository nor a plugin's folder
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run
