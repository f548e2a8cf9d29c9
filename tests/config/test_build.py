"""`build` gives one component from Python, with the checks of a config and the freedom of Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import atlas_core.building
from atlas_core.building import build, build_table
from atlas_core.config.structure import structure
from atlas_core.errors import ComponentError, ConfigError, PluginError, RunError
from atlas_core.plugins.registry import Registry


@pytest.fixture(autouse=True)
def _our_registry(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlas_core.building, "default_registry", lambda: registry)


def test_a_component_with_its_defaults(parts: Any) -> None:
    assert build("sampler", "heun") == parts.Heun()
    assert build("sampler", "acme-parts:heun", churn=1) == parts.Heun(churn=1.0)
    assert build_table("sampler", {"use": "heun", "order": 2}) == parts.Heun(order=2)


@pytest.mark.parametrize("kernel", ["gauss", {"use": "gauss", "scale": 3}, "object"])
def test_a_nested_component_is_a_name_a_table_or_an_object(parts: Any, kernel: Any) -> None:
    given = parts.Gauss(scale=3) if kernel == "object" else kernel
    solver = build("solver", "sinkhorn", kernel=given)
    assert solver.kernel == parts.Gauss(scale=1.0 if kernel == "gauss" else 3.0)
    if kernel == "object":
        assert solver.kernel is given


def test_objects_go_where_the_type_names_them(parts: Any) -> None:
    epsilon = np.float32(0.5)
    assert build("solver", "sinkhorn", epsilon=epsilon).epsilon == 0.5


def test_a_target_with_a_config_is_built_with_it(parts: Any) -> None:
    net = build("model", "net", shape=(3, 4, 4), width=16)
    assert isinstance(net, parts.Net)
    assert net.config.shape == (3, 4, 4)


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build("solver", "sinkhorn", epsilon=0, kernel={"use": "gauss", "scale": -1}, iters=5)
    assert {problem.where for problem in caught.value.problems} == {"$.epsilon", "$.kernel.scale", "$.iters"}


def test_a_derived_field_has_to_be_given_here() -> None:
    with pytest.raises(ConfigError, match="`sigma_data` is missing: in a pipeline it is the standard deviation"):
        build("parametrization", "edm")


def test_an_unknown_component_is_a_component_error() -> None:
    with pytest.raises(ComponentError, match="did you mean 'heun'"):
        build("sampler", "heum")


def test_a_component_that_breaks_names_its_distribution(parts: Any, monkeypatch: Any) -> None:
    def fail(self: Any, config: Any) -> None:
        raise RuntimeError("no such layer")

    monkeypatch.setattr(parts.Net, "__init__", fail)
    with pytest.raises(PluginError, match=r"acme-parts:net 1\.2\.3 cannot be built: RuntimeError: no such layer"):
        build("model", "net", shape=(1,))


def test_a_component_that_refuses_its_settings_is_a_config_error(parts: Any, monkeypatch: Any) -> None:
    def refuse(self: Any, config: Any) -> None:
        raise ValueError("width = 32 is too narrow")

    monkeypatch.setattr(parts.Net, "__init__", refuse)
    with pytest.raises(ConfigError, match="width = 32 is too narrow"):
        build("model", "net", shape=(1,))


def test_structure_gives_the_table_that_gives_it_again(registry: Registry) -> None:
    facts = {"data.shape": (1, 8, 8), "condition.vector": 4}
    resolved = structure("model", {"use": "net", "width": 16}, facts=facts, registry=registry)
    again = structure("model", resolved.table, facts={}, registry=registry)
    assert again.table == resolved.table
    assert again.config == resolved.config


def test_component_fields_use_build(parts: Any) -> None:
    assert parts.Sinkhorn().kernel == parts.Gauss()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.")]
)
def test_a_component_that_does_not_fit_into_memory_is_no_broken_plugin(
    registry: Registry, parts: Any, monkeypatch: Any, error: Exception
) -> None:
    def full(self: Any, config: Any) -> None:
        raise error

    monkeypatch.setattr(parts.Net, "__init__", full)
    resolved = structure("model", {"use": "net", "shape": [1, 8, 8]}, facts={}, registry=registry)
    with pytest.raises(RunError, match="model acme-parts:net does not fit into memory"):
        resolved.build()


def test_no_hint_names_a_command_that_does_not_exist() -> None:
    sources = [
        path for folder in ("config", "plugins") for path in Path(atlas_core.__file__).parent.glob(f"{folder}/*.py")
    ]
    assert sources
    assert [path for path in sources if "atlas-core check" in path.read_text(encoding="utf-8")] == []
