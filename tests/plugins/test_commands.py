"""`list-plugins`, `describe` and `doctor` on their own; `tests/broken_plugins` runs them among broken plugins."""

from __future__ import annotations

import json
import math
import re
from types import SimpleNamespace

import attrs
import click
import pytest
from attrs.validators import and_, ge, gt, in_, lt, optional
from click.testing import CliRunner

from atlas_core.cli import describe as describe_module
from atlas_core.cli import doctor as doctor_module
from atlas_core.cli import list_plugins as list_module
from atlas_core.errors import UsageError
from atlas_core.fields import component, derived
from atlas_core.plugins import registry as registry_module
from atlas_core.plugins.describe import describe
from atlas_core.plugins.registry import Entry


@attrs.frozen
class Thing:
    """Does a thing.

    x ↦ x, exactly.
    """

    paper = "Author 2020, eq. 1"
    accepts = frozenset({"dynamics", "denoiser"})
    stochastic = True

    scale: float = attrs.field(default=1.0, validator=gt(0), metadata={"help": "How much."})
    share: float | None = attrs.field(default=None, validator=optional(and_(ge(0), lt(1))), metadata={"help": "Part."})
    mode: str = attrs.field(default="a", validator=in_(["b", "a"]), metadata={"help": "Which."})
    sizes: tuple[int, ...] = attrs.field(factory=lambda: (1, 2))
    needed: bool = attrs.field(kw_only=True)
    shape: tuple[int, ...] = derived("data.shape", help="Of one item.")
    kernel: object = component("kernel", default="acme:gaussian", help="Similarity.")
    solver: object = component("solver", default=None, help="A solver.")
    endless: float = math.inf
    _private: int = 3


ENTRY = Entry("sampler", "thing", "acme", "1.0", "acme:Thing")


def test_a_description_is_read_from_the_class():
    description = describe(ENTRY, Thing)
    assert (description.summary, description.text) == ("Does a thing.", "x ↦ x, exactly.")
    assert description.capabilities == {"accepts": ["denoiser", "dynamics"], "stochastic": True}
    assert description.paper == "Author 2020, eq. 1"
    fields = {field.name: field for field in description.fields}
    assert (fields["scale"].type, fields["scale"].default, fields["scale"].range) == ("a number", 1.0, "> 0")
    assert fields["scale"].help == "How much."
    assert (fields["share"].type, fields["share"].default) == ("a number or null", None)
    assert fields["share"].range == "≥ 0 and < 1"
    assert (fields["mode"].default, fields["mode"].range) == ("a", 'one of "b", "a"')
    assert (fields["sizes"].default, fields["endless"].default) == ([1, 2], "inf")
    assert [name for name, field in fields.items() if field.required] == ["needed"]
    assert (fields["shape"].default, fields["shape"].fact) == (None, "data.shape")
    assert (fields["kernel"].default, fields["kernel"].kind) == ("acme:gaussian", "kernel")
    assert (fields["kernel"].type, fields["solver"].type) == ("a kernel", "a solver or null")
    assert description.entry.status == "ok"
    assert "private" in fields


def test_a_class_with_a_config_is_described_by_it():
    module = type("Net", (), {"__doc__": "A net.", "Config": Thing})
    assert next(field.name for field in describe(ENTRY, module).fields) == "scale"


@pytest.fixture
def installed(sampler, registry_of, monkeypatch):
    """A registry of one sampler, which the commands use."""
    sampler("acme-samplers", "nothing")
    registry = registry_of()
    monkeypatch.setattr(registry_module, "default_registry", lambda: registry)
    monkeypatch.setattr(list_module, "Registry", lambda: registry)
    return registry


def test_describe_prints_a_page_and_an_object(installed, monkeypatch):
    monkeypatch.setattr(installed, "load", lambda entry: Thing)
    text = CliRunner().invoke(describe_module.describe, ["sampler/nothing"], env={"COLUMNS": "160"}).output
    for expected in (
        "Does a thing.",
        "scale",
        "How much.",
        "> 0",
        "from data.shape",
        '"gaussian"',
        "required",
        "denoiser, dynamics",
        "acme-samplers 1.0",
    ):
        assert expected in text
    assert re.search(r"share +a number or null; default null; ≥ 0 and < 1 *\n +Part\.", text)
    content = json.loads(
        CliRunner().invoke(describe_module.describe, ["sampler/acme-samplers:nothing", "--json"]).output
    )
    assert (content["schema"], content["status"]) == (1, "ok")
    assert content["fields"][0] == {
        "name": "scale", "type": "a number", "default": 1.0, "required": False, "range": "> 0", "help": "How much.",
        "fact": "", "kind": "",
    }  # fmt: skip


@pytest.mark.parametrize("columns", [60, 80])
def test_describe_cuts_nothing_where_there_is_little_room(installed, monkeypatch, columns):
    @attrs.frozen
    class Wide:
        shape_of_everything: int = derived("condition.vector", help="self-attention " * 12)
        condition_width: int = attrs.field(default=1, metadata={"help": "self-attention " * 12})

    monkeypatch.setattr(installed, "load", lambda entry: Wide)
    text = CliRunner().invoke(describe_module.describe, ["sampler/nothing"], env={"COLUMNS": str(columns)}).output
    assert "…" not in text
    for word in ("shape_of_everything", "condition_width", "condition.vector"):
        assert word in text.replace(";", "").split()
    assert text.count("self-attention") == 24
    assert max(map(len, text.splitlines())) <= columns


@pytest.mark.parametrize("name", ["nothing", "acme-samplers:nothing"])
def test_describe_needs_no_kind_for_a_name_that_only_one_has(installed, name):
    text = CliRunner().invoke(describe_module.describe, [name], catch_exceptions=False).output
    assert text.startswith("sampler/nothing")


def test_describe_lists_the_kinds_of_a_name_that_several_have(installed, monkeypatch):
    rows = (ENTRY._replace(name="twin"), ENTRY._replace(kind="metric", name="twin"))
    monkeypatch.setattr(installed, "entries", lambda kind: tuple(row for row in rows if row.kind == kind))
    with pytest.raises(UsageError, match=r"2 kinds have (.|\n)*sampler/twin, metric/twin"):
        CliRunner().invoke(describe_module.describe, ["twin"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("heun", "pip install atlas-solvers-builtin"),
        ("nothign", "no component 'nothign'; did you mean 'nothing'"),
        ("sampler", r"a kind, no component(.|\n)*--kind sampler"),
        ("sampler/", "no KIND/NAME"),
        ("hooks/x", "no components"),
    ],
)
def test_describe_explains_what_it_wants(installed, name, message):
    with pytest.raises(UsageError, match=message):
        CliRunner().invoke(describe_module.describe, [name], catch_exceptions=False)


def test_list_plugins_reads_its_options(installed, capsys):
    assert list_module.main(["--kind=sampler", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["plugins"]
    assert row["name"] == "nothing"
    assert list_module.main(["--kind", "grid"]) == 0
    assert "No plugin" in capsys.readouterr().out
    with pytest.raises(UsageError, match="did you mean 'grid'"):
        list_module.main(["--kind", "grids", "--check"])


@pytest.mark.parametrize("arguments", [["--jsno"], ["--kind"], ["extra"]])
def test_list_plugins_leaves_what_it_does_not_know_to_click(installed, arguments):
    with pytest.raises(click.UsageError):
        list_module.main(arguments)


def test_list_plugins_is_a_click_command_too(installed):
    assert isinstance(list_module.list_plugins, click.Command)
    assert "nothing" in CliRunner().invoke(list_module.list_plugins, ["--kind", "sampler"]).output


def test_a_name_in_the_environment_that_nothing_has_is_noted(installed, capsys):
    installed.policy = installed.policy._replace(disabled={"acme-smaplers": "ATLAS_DISABLE_PLUGINS"})
    list_module.main([])
    assert "'acme-smaplers'" in capsys.readouterr().err


def distribution(name, version, entry_points):
    texts = {"METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "entry_points.txt": entry_points}
    return SimpleNamespace(name=name, version=version, read_text=texts.get, locate_file=lambda path: "/site")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (distribution("atlas-core", "1.2.0", None), "another project of that name"),
        (
            distribution("atlas_core", "9.0.0", "[console_scripts]\natlas-core = atlas_core.cli:main"),
            "Python imports 2.",
        ),
        (distribution("atlas-models", "1.1.0", ""), "no project of ours"),
        (distribution("atlas-models-builtin", "2.0.0", ""), None),
        (distribution("atlas-core", "2.0.0", "[console_scripts]\natlas-core = atlas_core.cli:main"), None),
    ],
)
def test_doctor_tells_ours_from_a_stranger_of_the_same_name(monkeypatch, found, expected):
    monkeypatch.setattr(doctor_module, "distributions", lambda: [found])
    problems = doctor_module._installation_problems()
    assert (expected in problems[0]) if expected else problems == []


def test_doctor_flags_a_namespace_package_in_the_place_of_atlas_core(monkeypatch):
    monkeypatch.setattr(doctor_module, "distributions", list)
    monkeypatch.setattr("atlas_core.__file__", None)
    assert "empty namespace package" in doctor_module._installation_problems()[0]
