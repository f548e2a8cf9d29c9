"""Presets are found by name, never won by chance, and shown without importing torch."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib

import pytest
from click.testing import CliRunner

import atlas_core.config.presets
from atlas_core.cli.presets import presets as command
from atlas_core.config.document import load_document
from atlas_core.config.plan import PipelinePlan
from atlas_core.config.presets import Offer, Preset, find
from atlas_core.errors import ConfigError
from atlas_core.plugins.policy import Policy
from atlas_core.plugins.registry import Registry, default_registry


@pytest.fixture
def two_providers(monkeypatch: pytest.MonkeyPatch) -> Registry:
    found = tuple(Offer(provider, Preset("digits", "Ours.", f"# {provider}")) for provider in ("acme", "zeta"))
    monkeypatch.setattr(atlas_core.config.presets, "offers", lambda registry: found)
    return Registry(Policy(), installed=[])


def test_two_presets_of_one_name_are_ambiguous_until_one_is_chosen(two_providers: Registry) -> None:
    with pytest.raises(ConfigError, match="ambiguous: acme:digits, zeta:digits"):
        find("digits", two_providers)
    assert find("zeta:digits", two_providers).provider == "zeta"
    assert find("digits", Registry(Policy(prefer=("zeta",)), installed=[])).provider == "zeta"


def test_an_unknown_preset_names_the_nearest(two_providers: Registry) -> None:
    with pytest.raises(ConfigError, match="no preset 'digts'") as caught:
        find("digts", two_providers)
    assert "Did you mean 'digits'?" in caught.value.hint
    assert caught.value.exit_code == 2


def test_without_presets_the_pip_line_is_shown(registry: Registry) -> None:
    with pytest.raises(ConfigError) as caught:
        find("digits", registry)
    assert caught.value.hint == "pip install atlas-datasets-builtin"


@pytest.mark.parametrize("name", ["digits", "mnist-5k"])
def test_our_presets_resolve_as_they_are(name: str) -> None:
    plan = load_document(name).resolve()
    assert isinstance(plan, PipelinePlan)
    assert plan.notes == ()
    assert plan.name == name
    given = tomllib.loads(find(name, default_registry()).preset.text)
    ids = [table["use"] for table in given.values() if "use" in table]
    assert len(ids) >= 6
    assert all(":" in use for use in ids), "presets write full ids, so that no stranger's plugin changes them"


def test_list_and_show() -> None:
    listing = CliRunner().invoke(command, ["list"]).output
    assert "digits" in listing
    assert find("digits", default_registry()).preset.needs["time"] in listing
    assert CliRunner().invoke(command, []).output == listing
    shown = CliRunner().invoke(command, ["show", "digits"]).output
    assert tomllib.loads(shown)["data"] == {"use": "atlas-datasets-builtin:digits"}


def test_json() -> None:
    listing = json.loads(CliRunner().invoke(command, ["list", "--json"]).output)
    assert listing["schema"] == 1
    assert {"digits", "mnist-5k"} <= {preset["name"] for preset in listing["presets"]}
    shown = json.loads(CliRunner().invoke(command, ["show", "digits", "--json"]).output)
    assert shown["provider"] == "atlas-datasets-builtin"
    assert set(shown["needs"]) == {"data", "memory", "time"}
    assert shown["tables"] == tomllib.loads(shown["text"])


def test_neither_torch_nor_numpy_is_imported() -> None:
    code = """
import sys
import atlas_core.building, atlas_core.config.document, atlas_core.config.writing
from atlas_core.cli.presets import presets
presets(["list"], standalone_mode=False)
print([name for name in ("torch", "numpy", "sklearn") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
