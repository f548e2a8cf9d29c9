"""A plugin that has a name of ours changes nothing for who never wrote that name."""

from __future__ import annotations

from importlib.metadata import distribution
from typing import Any

import attrs
import pytest

from atlas_core.config.plan import DEFAULTS
from atlas_core.config.sections import EvaluateConfig, SamplingConfig
from atlas_core.config.structure import structure
from atlas_core.errors import ComponentError
from atlas_core.plugins.known import PROVIDERS
from atlas_core.plugins.registry import Registry, default_registry

MODULE = "atlas_config_test_parts"
MINIMAL = '[data]\nuse = "scans"\n[model]\nuse = "net"\n'
RIVALS = (
    ("process", "edm", f"{MODULE}:Line"),
    ("parametrization", "edm", f"{MODULE}:Noise"),
    ("objective", "denoising", f"{MODULE}:MinSNR"),
    ("sampler", "multistep", f"{MODULE}:Heun"),
    ("grid", "logistic-log-snr", f"{MODULE}:Uniform"),
    ("guidance", "none", f"{MODULE}:Guided"),
)


def test_a_config_that_names_no_part_means_ours(document: Any, registry: Registry, with_stranger: Any) -> None:
    alone = document().resolve(registry).table
    assert document().resolve(with_stranger(registry, *RIVALS)).table == alone


def test_a_setting_of_a_part_that_is_not_named_means_ours(
    document: Any, registry: Registry, with_stranger: Any
) -> None:
    plan = document(MINIMAL, "sampler.churn=2").resolve(with_stranger(registry, *RIVALS))
    assert plan.sampler.id == "atlas-solvers-builtin:multistep"


@pytest.mark.parametrize(
    ("kind", "use"),
    [("solver", "atlas-solvers-builtin:sinkhorn"), ("metric", "atlas-metrics-builtin:sinkhorn-divergence")],
)
def test_what_a_component_of_ours_holds_by_default_is_ours(kind: str, use: str, parts: Any, with_stranger: Any) -> None:
    rivals = (("kernel", "gaussian", f"{MODULE}:Gauss"), ("solver", "sinkhorn", f"{MODULE}:Sinkhorn"))
    registry = with_stranger(default_registry(), *rivals)
    held = structure(kind, use, facts={}, registry=registry).components()
    assert {component.entry.provider for component in held} <= set(PROVIDERS)


def test_every_default_of_core_is_a_full_id_that_exists() -> None:
    defaults = [(kind, use) for kind, use in DEFAULTS.items()]
    for section in (SamplingConfig, EvaluateConfig):
        for field in attrs.fields(section):
            if isinstance(use := field.metadata.get("default_use"), str):
                defaults.append((field.metadata["kind"], use))
    assert len(defaults) >= 6
    for kind, use in defaults:
        provider, _, name = use.partition(":")
        assert name in PROVIDERS[provider][kind]


def test_every_component_of_ours_names_its_defaults_in_full() -> None:
    seen = 0
    points = [point for provider in PROVIDERS for point in distribution(provider).entry_points if point.attr]
    for point in points:
        loaded = point.load()
        config = getattr(loaded, "Config", loaded)
        for field in attrs.fields(config) if isinstance(config, type) and attrs.has(config) else ():
            if isinstance(use := field.metadata.get("default_use"), str):
                seen += 1
                assert ":" in use, f"{point.value}.{field.name}"
    assert seen


def test_a_name_that_several_have_is_refused_without_preferring_any(registry: Registry, with_stranger: Any) -> None:
    with pytest.raises(ComponentError, match="acme-rival:multistep, atlas-solvers-builtin:multistep") as caught:
        with_stranger(registry, *RIVALS).resolve("sampler", "multistep")
    assert "acme-rival" not in caught.value.hint
