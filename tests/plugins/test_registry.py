"""Names: who owns them, who may be used, and what is said about the others."""

from __future__ import annotations

import sys
from itertools import permutations

import pytest

from atlas_core.config.sections import PluginsConfig
from atlas_core.errors import ComponentError, PluginError, UsageError
from atlas_core.plugins.kinds import KINDS
from atlas_core.plugins.policy import Policy, settle
from atlas_core.plugins.registry import Entry


def test_a_short_name_and_a_full_id_find_the_component_and_load_it(sampler, registry_of):
    sampler("acme-samplers", "nothing")
    registry = registry_of()
    entry = registry.resolve("sampler", "nothing")
    assert (
        entry
        == registry.resolve("sampler", "acme-samplers:nothing")
        == registry.resolve("sampler", "Acme_Samplers:nothing")
    )
    assert (entry.id, entry.version, entry.target) == ("acme-samplers:nothing", "1.0", "acme_samplers:Sampler")
    assert "acme_samplers" not in sys.modules
    assert registry.load(entry).__name__ == "Sampler"
    assert registry.load(entry) is registry.load(entry)


def test_a_name_of_two_providers_is_refused_with_both_ids_and_either_id_works(sampler, registry_of):
    sampler("acme-one", "twin")
    sampler("beta-two", "twin")
    registry = registry_of()
    with pytest.raises(ComponentError, match=r"ambiguous: acme-one:twin, beta-two:twin"):
        registry.resolve("sampler", "twin")
    assert registry.resolve("sampler", "beta-two:twin").provider == "beta-two"
    assert [row.status for row in registry.listing()] == ["ambiguous", "ambiguous"]
    assert "beta-two:twin" in registry.listing()[0].reason


def test_prefer_decides_and_the_other_one_keeps_its_full_id(sampler, registry_of):
    sampler("acme-one", "twin")
    sampler("beta-two", "twin")
    registry = registry_of(Policy(prefer=("nobody", "beta-two")))
    assert registry.resolve("sampler", "twin").provider == "beta-two"
    assert registry.resolve("sampler", "acme-one:twin").provider == "acme-one"
    assert [(row.provider, row.status) for row in registry.entries()] == [
        ("acme-one", "shadowed"),
        ("beta-two", "unverified"),
    ]


@pytest.mark.parametrize("prefer", [(), ("b",), ("c", "a")])
def test_no_order_of_the_rows_changes_the_answer(prefer):
    rows = [Entry("sampler", "x", provider, "1", f"{provider}:X") for provider in "abc"]
    rows.append(Entry("sampler", "x", "a", "1", "a:Y"))  # a declares it twice
    rows.append(Entry("grid", "x", "a", "1", "a:G"))  # another kind: no conflict
    policy = Policy(prefer=prefer)
    assert len({settle(order, policy) for order in permutations(rows)}) == 1


def test_one_id_declared_twice_is_a_conflict_that_even_the_full_id_does_not_decide(make, tmp_path, registry_of):
    make.make_distribution(
        tmp_path / "site",
        "acme-twice",
        entry_points="[atlas_core.samplers]\nx = acme_twice:A\n[atlas_core.plugins]\nmore = acme_twice_hooks\n",
        files={
            "acme_twice_hooks.py": "from atlas_core import hookimpl\n"
            "from atlas_core.plugins.hookspecs import ComponentSpec\n"
            "@hookimpl\ndef atlas_samplers():\n    return [ComponentSpec('x', 'acme_twice:B')]\n",
        },
    )
    registry = registry_of()
    assert [row.status for row in registry.entries("sampler")] == ["ambiguous", "ambiguous"]
    with pytest.raises(ComponentError, match=r"declared more than once: acme_twice:A, acme_twice:B"):
        registry.resolve("sampler", "acme-twice:x")


def test_a_disabled_plugin_is_never_imported(sampler, registry_of, monkeypatch):
    sampler("acme-samplers", "nothing")
    monkeypatch.setenv("ATLAS_DISABLE_PLUGINS", "other, Acme.Samplers")
    registry = registry_of()
    assert [(row.status, row.reason) for row in registry.listing()] == [
        ("disabled", "disabled by ATLAS_DISABLE_PLUGINS")
    ]
    remedy = "Unset ATLAS_DISABLE_PLUGINS, or take 'acme-samplers' out of ATLAS_DISABLE_PLUGINS."
    with pytest.raises(ComponentError, match=r"\) is disabled by ATLAS_DISABLE_PLUGINS") as caught:
        registry.resolve("sampler", "nothing")
    assert caught.value.hint == remedy
    with pytest.raises(ComponentError, match="disabled by ATLAS_DISABLE_PLUGINS") as caught:
        registry.load(Entry("sampler", "nothing", "acme-samplers", "1.0", "acme_samplers:Sampler"))
    assert caught.value.hint == remedy
    assert "acme_samplers" not in sys.modules
    assert registry.policy.unknown(registry.listing()) == ["other"]


def test_disabling_one_of_two_ends_the_ambiguity(sampler, registry_of):
    sampler("acme-one", "twin")
    sampler("beta-two", "twin")
    policy = Policy.from_config(PluginsConfig(disable=("beta_two:twin",)))
    assert registry_of(policy).resolve("sampler", "twin").provider == "acme-one"


def test_an_allow_list_keeps_everybody_else_out(sampler, registry_of, monkeypatch):
    sampler("acme-one", "one")
    sampler("beta-two", "two")
    policy = Policy.from_config(PluginsConfig(mode="allowlist", allow=("acme-one",)))
    statuses = {row.provider: row.status for row in registry_of(policy).listing()}
    assert statuses == {"acme-one": "unverified", "beta-two": "disabled"}
    monkeypatch.setenv("ATLAS_PLUGINS", "beta-two")
    assert {row.status for row in registry_of(Policy.from_config(PluginsConfig())).listing("sampler")} == {
        "unverified",
        "disabled",
    }
    # A config cannot let in what the environment keeps out, nor the other way round.
    both = Policy.from_config(PluginsConfig(mode="allowlist", allow=("acme-one",)))
    assert {row.status for row in registry_of(both).listing()} == {"disabled"}


@pytest.mark.parametrize(
    ("config", "allowed", "remedy"),
    [
        ({"disable": ("acme-one",)}, "", "Take 'acme-one' out of [plugins] disable."),
        ({"disable": ("Acme_One:one",)}, "", "Take 'acme-one:one' out of [plugins] disable."),
        ({"mode": "allowlist", "allow": ("x",)}, "", "Add 'acme-one' to [plugins] allow."),
        ({}, "x", "Add 'acme-one' to ATLAS_PLUGINS."),
        ({"mode": "allowlist"}, "x", "Add 'acme-one' to [plugins] allow and to ATLAS_PLUGINS."),
    ],
)
def test_what_the_policy_keeps_out_comes_with_the_entry_to_change(
    sampler, registry_of, monkeypatch, config, allowed, remedy
):
    sampler("acme-one", "one")
    monkeypatch.setenv("ATLAS_PLUGINS", allowed)
    with pytest.raises(ComponentError) as caught:
        registry_of(Policy.from_config(PluginsConfig(**config))).resolve("sampler", "one")
    assert caught.value.hint == remedy


def test_an_unknown_name_gets_the_nearest_one(sampler, registry_of):
    sampler("acme-samplers", "nothing")
    with pytest.raises(ComponentError, match=r"no sampler 'nothign'; did you mean 'nothing'\?"):
        registry_of().resolve("sampler", "nothign")


def test_a_name_that_is_not_installed_gets_the_pip_line_of_its_provider(sampler, registry_of):
    sampler("acme-samplers", "nothing")
    registry = registry_of()
    with pytest.raises(ComponentError, match="pip install atlas-solvers-builtin"):
        registry.resolve("sampler", "heun")
    with pytest.raises(ComponentError, match=r"(?s)did you mean 'heun'\?.*pip install atlas-solvers-builtin"):
        registry.resolve("sampler", "huen")
    with pytest.raises(ComponentError, match="pip install atlas-example-kernel"):
        registry.resolve("kernel", "atlas_example_kernel:example-cauchy")


@pytest.mark.parametrize("name", ["os.path:join", "evil-pkg:thing", "acme-kernels:gaussian"])
def test_no_pip_line_recommends_a_package_that_only_the_config_names(sampler, registry_of, name):
    sampler("acme-samplers", "nothing")
    with pytest.raises(ComponentError, match=r"No distribution called .* is installed") as caught:
        registry_of().resolve("kernel", name)
    assert "pip" not in str(caught.value)


def test_an_unknown_kind_gets_the_nearest_one(registry_of):
    with pytest.raises(UsageError, match=r"no kind 'samplers'; did you mean 'sampler'\?"):
        registry_of().resolve("samplers", "heun")
    with pytest.raises(UsageError, match="no kind"):
        registry_of().listing("sample")


def test_a_plugin_for_another_api_version_does_not_take_a_name_and_says_both_versions(sampler, registry_of):
    sampler("acme-one", "twin")
    sampler("beta-future", "twin", requires=("atlas-core>=3,<4",))
    sampler("beta-extra", "extra", requires=('atlas-core>=3; extra == "dev"', "atlas-core-tools>=9", "atlas-core~=2.0"))
    registry = registry_of()
    assert registry.resolve("sampler", "twin").provider == "acme-one"
    assert registry.resolve("sampler", "extra")
    with pytest.raises(PluginError, match=r"needs atlas-core>=3,<4; this is atlas-core 2\.\d"):
        registry.resolve("sampler", "beta-future:twin")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise RuntimeError('no licence')", "import: importing acme_bad raises RuntimeError: no licence"),
        ("import sys; sys.exit(3)", r"import: importing acme_bad calls sys.exit\(3\)"),
        (
            "import acme_absent_dependency",
            "import: it needs the module 'acme_absent_dependency', which is not installed",
        ),
        ("import acme_bad.part", "import: importing acme_bad fails: its own module acme_bad.part does not exist"),
        (
            "class Samplers: pass",
            r"acme_bad:Sampler does not exist: acme_bad has no 'Sampler'; did you mean 'Samplers'\?",
        ),
        ("Sampler = 42", "contract: acme_bad:Sampler is no sampler: it is 42"),
        ("class Sampler: pass", "neither an attrs class nor"),
        (
            "import attrs\n@attrs.frozen\nclass Sampler:\n    def steps(self): ...",
            "Sampler lacks nfe, accepts, stochastic",
        ),
    ],
)
def test_a_plugin_that_fails_is_a_plugin_error_with_distribution_stage_and_reason(
    make, tmp_path, registry_of, source, message
):
    entry_points = "[atlas_core.samplers]\nbad = acme_bad:Sampler\n"
    make.make_distribution(tmp_path / "site", "acme-bad", entry_points=entry_points, files={"acme_bad.py": source})
    registry = registry_of()
    with pytest.raises(PluginError, match=message) as caught:
        registry.load(registry.resolve("sampler", "bad"))
    assert "acme-bad 1.0" in str(caught.value)
    assert "ATLAS_DISABLE_PLUGINS=acme-bad" in caught.value.hint
    assert [failure.entry.id for failure in registry.failures] == ["acme-bad:bad"]


def test_a_plugin_that_prints_does_not_spoil_the_output_of_a_command(make, tmp_path, registry_of, capsys):
    entry_points = "[atlas_core.samplers]\nloud = acme_loud:Sampler\n"
    files = {"acme_loud.py": make.SAMPLER.format(name="Sampler") + "\nprint('Welcome to ACME')\n"}
    make.make_distribution(tmp_path / "site", "acme-loud", entry_points=entry_points, files=files)
    registry = registry_of()
    with pytest.warns(RuntimeWarning, match="prints at import: 'Welcome to ACME'"):
        registry.load(registry.resolve("sampler", "loud"))
    assert capsys.readouterr().out == ""
    assert len(registry.failures) == 1


def test_an_empty_namespace_package_is_named_as_such(tmp_path, registry_of, make):
    (tmp_path / "site" / "acme_empty").mkdir(parents=True)
    entry_points = "[atlas_core.samplers]\nx = acme_empty:Sampler\n"
    make.make_distribution(tmp_path / "site", "acme-empty", entry_points=entry_points, files={})
    registry = registry_of()
    with pytest.raises(PluginError, match=r"acme_empty is an empty namespace package in .*acme_empty"):
        registry.load(registry.resolve("sampler", "x"))


def test_every_kind_has_a_group_a_hook_and_a_contract():
    import atlas_core.contracts
    from atlas_core.plugins.hookspecs import plugin_manager

    hooks = vars(plugin_manager().hook)
    for kind in KINDS:
        assert hasattr(atlas_core.contracts, kind.contract), kind
        assert kind.hook in hooks
    assert len(KINDS) == 13


def test_the_known_providers_are_those_that_the_repository_declares():
    import tomllib
    from pathlib import Path

    from atlas_core.plugins.kinds import KIND_OF_GROUP
    from atlas_core.plugins.known import PROVIDERS

    root = Path(__file__).parents[2]
    declared = {}
    for file in [*root.glob("atlas_*_builtin/pyproject.toml"), *root.glob("plugins/*/pyproject.toml")]:
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        groups = {KIND_OF_GROUP[group]: set(names) for group, names in project["entry-points"].items()}
        groups.pop("hooks", None)
        declared[project["name"]] = groups
    assert {name: {kind: set(names) for kind, names in kinds.items()} for name, kinds in PROVIDERS.items()} == declared
