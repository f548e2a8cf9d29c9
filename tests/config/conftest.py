"""A registry of stand-in components, so that configs are tested without the built-in distributions."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest

from atlas_core.config.document import Document, load_document
from atlas_core.config.plan import DEFAULTS
from atlas_core.config.sections import SamplingConfig
from atlas_core.plugins.policy import Policy
from atlas_core.plugins.registry import Registry
from atlas_core.plugins.scan import Entry, Installed

MODULE = "atlas_config_test_parts"
OURS = "atlas-solvers-builtin"
"""Whom the defaults of a config come from; every other stand-in is of `acme-parts`."""
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
    defaults = {**DEFAULTS, **{kind: default_of(kind) for kind in ("grid", "guidance")}}
    entries = [
        Entry(kind, name, OURS if defaults.get(kind) == f"{OURS}:{name}" else "acme-parts", "1.2.3", target)
        for kind, names in parts.NAMES.items()
        for name, attribute in names.items()
        for target in (f"{MODULE}:{attribute}",)
    ]
    return Registry(Policy(), installed=[distribution(provider, entries) for provider in ("acme-parts", OURS)])


def default_of(field: str) -> str:
    """What `[sampling]` takes for a component that it does not name."""
    return str(attrs.fields_dict(SamplingConfig)[field].metadata["default_use"])


def distribution(provider: str, entries: Iterable[Entry]) -> Installed:
    """A distribution with those of the entries that are its own."""
    own = tuple(entry for entry in entries if entry.provider == provider)
    return Installed(provider, "1.2.3", "", False, "", own, _NoFiles())


@pytest.fixture
def with_stranger() -> Any:
    """Add to a registry the distribution `acme-rival`, which declares components as `(kind, name, target)`."""

    def add(registry: Registry, *components: tuple[str, str, str]) -> Registry:
        entries = [Entry(kind, name, "acme-rival", "1.2.3", target) for kind, name, target in components]
        return Registry(Policy(), installed=[*registry.installed, distribution("acme-rival", entries)])

    return add


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
