"""A registry of stand-in components, so that configs are tested without the built-in distributions."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import Distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from atlas_core.config.document import Document, load_document
from atlas_core.plugins.policy import Policy
from atlas_core.plugins.registry import Registry
from atlas_core.plugins.scan import Entry, Installed

MODULE = "atlas_config_test_parts"
MINIMAL = """\
[data]
use = "scans"

[model]
use = "net"
"""


@pytest.fixture(scope="session")
def parts() -> ModuleType:
    """The stand-ins, under a name that a registry can import."""
    spec = importlib.util.spec_from_file_location(MODULE, Path(__file__).with_name("parts.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def registry(parts: ModuleType) -> Registry:
    entries = tuple(
        Entry(kind, name, "acme-parts", "1.2.3", f"{MODULE}:{attribute}")
        for kind, names in parts.NAMES.items()
        for name, attribute in names.items()
    )
    return Registry(Policy(), installed=[Installed("acme-parts", "1.2.3", "", False, "", entries, _NoFiles())])


class _NoFiles(Distribution):
    def read_text(self, filename: str) -> str | None:
        return None

    def locate_file(self, path: Any) -> Any:
        return Path(path)


@pytest.fixture
def document(tmp_path: Path, registry: Registry) -> Any:
    """Write a config to config.toml and open it."""

    def open_(text: str = MINIMAL, *overrides: str) -> Document:
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        return load_document(path, overrides, registry=registry)

    return open_
