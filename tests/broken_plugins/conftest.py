"""The environment of broken plugins, built once a process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


def load(path: Path) -> ModuleType:
    """Import a file that is no test module; test modules do not import each other."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(path.stem, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


environment = load(HERE / "broken_environment.py")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `case` runs for every one."""
    if "case" in metafunc.fixturenames:
        ids = [f"{case.provider}:{case.name}" for case in environment.CASES]
        metafunc.parametrize("case", environment.CASES, ids=ids)


@pytest.fixture(scope="session")
def broken_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What PYTHONPATH has to be for every broken plugin to be installed."""
    make = load(HERE.parent / "plugins" / "make_distribution.py")
    return os.pathsep.join(map(str, environment.build(tmp_path_factory.mktemp("broken"), make)))


@pytest.fixture(scope="session")
def run(broken_path: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python code among the broken plugins, with a cache that the tests of this process share."""
    cache = tmp_path_factory.mktemp("cache")

    def command(code: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ATLAS_")}
        ours = {"PYTHONPATH": broken_path, "XDG_CACHE_HOME": str(cache), "COLUMNS": "200"}
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**inherited, **ours, **settings},
            cwd=cache,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return command


@pytest.fixture(scope="session")
def providers() -> str:
    """The broken providers, as ATLAS_PLUGINS takes them: a check of these alone is quick."""
    return str(environment.PROVIDERS)
