"""A plan is complete: written down and read back it is the same, without the data, on another machine."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest

from atlas_core.cli import main
from atlas_core.config.document import load_document
from atlas_core.config.lock import changed, missing
from atlas_core.config.plan import PipelinePlan, TransportPlan
from atlas_core.config.writing import to_toml
from atlas_core.errors import ConfigError, UsageError
from atlas_core.plugins.policy import Policy
from atlas_core.plugins.registry import Registry

MINIMAL = '[data]\nuse = "scans"\n[model]\nuse = "net"\n'
FULL = """\
name = "everything"
model = { use = "net", width = 64, act = "gelu" }
conditioner = "label"
[data]
use = "scans"
classes = 4
[objective]
use = "denoising"
ceiling = "null"
inner = { use = "min-snr", gamma = 2 }
[train]
clip_norm = "null"
schedule = "constant"
[sampling]
nfe = 10
guidance = { use = "cfg", scale = 2 }
[evaluate]
metrics = [{ use = "score", bins = 9, solver = { use = "sinkhorn" } }, "score"]
baselines = ["copies"]
"""


@pytest.fixture
def plan(document: Any, registry: Registry) -> PipelinePlan:
    return document(FULL).resolve(registry)  # type: ignore[no-any-return]


def test_defaults_and_derived_fields_are_filled_in(document: Any, registry: Registry) -> None:
    plan = document(MINIMAL).resolve(registry)
    assert plan.name == "config"
    assert plan.model.table == {
        "use": "acme-parts:net",
        "shape": [1, 8, 8],
        "condition_width": 0,
        "width": 32,
        "multipliers": [1, 2],
        "attention": False,
        "groups": 8,
        "act": "silu",
    }
    assert plan.parametrization.config.sigma_data == 0.4
    assert [part.id for part in (plan.process, plan.parametrization, plan.objective, plan.sampler)] == [
        "atlas-solvers-builtin:edm",
        "atlas-solvers-builtin:edm",
        "atlas-solvers-builtin:denoising",
        "atlas-solvers-builtin:multistep",
    ]
    assert plan.conditioner is None
    assert plan.grid.id == "atlas-solvers-builtin:logistic-log-snr"


def test_the_conditioner_tells_the_model_its_width(plan: PipelinePlan) -> None:
    assert plan.model.config.condition_width == 16
    assert plan.conditioner is not None
    assert plan.conditioner.config.classes == 4


def test_a_derived_field_that_the_user_sets_stays(document: Any, registry: Registry) -> None:
    assert document(MINIMAL, "parametrization.sigma_data=1").resolve(registry).parametrization.config.sigma_data == 1.0


def test_planning_builds_no_network(document: Any, registry: Registry, parts: Any) -> None:
    before = parts.Net.built
    plan = document(MINIMAL).resolve(registry)
    assert parts.Net.built == before
    assert isinstance(plan.model.build(), parts.Net)
    assert parts.Net.built == before + 1


def test_nested_components_are_built_anew_each_time(plan: PipelinePlan, parts: Any) -> None:
    first, second = plan.metrics[0].build(), plan.metrics[0].build()
    assert first is not second
    assert first.solver == parts.Sinkhorn(kernel=parts.Gauss())
    assert isinstance(plan.sampling.guidance, parts.Guided)
    assert [type(metric).__name__ for metric in plan.evaluate.metrics] == ["Score", "Score"]


def test_the_resolved_table_reads_back_to_itself_from_toml_and_json(
    plan: PipelinePlan, registry: Registry, tmp_path: Path
) -> None:
    text = to_toml(plan.table)
    assert tomllib.loads(text) == plan.table
    for name, content in (("again.toml", text), ("again.json", json.dumps(plan.table))):
        (tmp_path / name).write_text(content, encoding="utf-8")
        again = load_document(tmp_path / name, registry=registry).resolve(registry)
        assert again.table == plan.table
        assert again.lock() == plan.lock()
        assert again.train == plan.train


def test_null_survives_where_the_default_is_not_null(plan: PipelinePlan, registry: Registry) -> None:
    assert plan.train.clip_norm is None
    assert plan.objective.config.ceiling is None
    again = PipelinePlan.from_table(tomllib.loads(to_toml(plan.table)), registry)
    assert again.train.clip_norm is None
    assert again.objective.config.ceiling is None
    assert again.objective.config.inner.gamma == 2.0


def test_null_on_the_command_line(document: Any, registry: Registry) -> None:
    assert document(MINIMAL, "train.clip_norm=null").resolve(registry).train.clip_norm is None


def test_a_checkpoint_opens_without_its_dataset_and_metrics(plan: PipelinePlan, parts: Any, monkeypatch: Any) -> None:
    names = {kind: entries for kind, entries in parts.NAMES.items() if kind not in ("dataset", "metric", "objective")}
    poorer = Registry(Policy(), installed=[_only(one, names) for one in plan.registry.installed])
    again = PipelinePlan.from_table(plan.table, poorer)
    assert again.facts == plan.facts
    assert again.facts.spec is not None
    assert again.facts.spec.classes == ("0", "1", "2", "3")
    assert again.model.table == plan.model.table
    assert again.sampling == plan.sampling
    assert again.table == plan.table
    for ask in ("data", "dataset", "objective", "evaluate"):
        with pytest.raises(ConfigError):
            getattr(again, ask)


def _only(installed: Any, kinds: dict[str, Any]) -> Any:
    return installed._replace(entries=tuple(entry for entry in installed.entries if entry.kind in kinds))


def test_a_checkpoint_samples_in_another_way_but_is_not_retrained(plan: PipelinePlan, registry: Registry) -> None:
    again = PipelinePlan.from_table(plan.table, registry, overrides=["sampler=heun", "sampling.steps=7"])
    assert again.sampler.id == "acme-parts:heun"
    assert (again.sampling.nfe, again.sampling.steps) == (None, 7)
    assert again.table["sampler"] == {"use": "acme-parts:heun", "churn": 0.0, "order": 1}
    with pytest.raises(UsageError, match="model cannot be changed after training"):
        PipelinePlan.from_table(plan.table, registry, overrides=["model.width=8"])
    with pytest.raises(ConfigError):
        PipelinePlan.from_table(plan.table, registry, overrides=["sampler=drift"])


def test_a_config_that_is_not_resolved_is_no_checkpoint(registry: Registry) -> None:
    with pytest.raises(ConfigError, match=r"it has no \[facts\]"):
        PipelinePlan.from_table(tomllib.loads(MINIMAL), registry)


def test_a_resolved_config_refuses_other_data(plan: PipelinePlan, document: Any, registry: Registry) -> None:
    with pytest.raises(ConfigError) as caught:
        document(to_toml(plan.table), "data.classes=3").resolve(registry)
    assert "$.facts.data.classes" in [problem.where for problem in caught.value.problems]


def test_unbounded_values_survive(plan: PipelinePlan) -> None:
    from atlas_core.config.facts import Facts
    from atlas_core.contracts import DataSpec

    facts = Facts(DataSpec(shape=(2,), value_range=None, std=1.5), {}, 10)
    assert Facts.from_table(tomllib.loads(to_toml(facts.table())), 10) == facts


def test_the_lock_names_every_component(plan: PipelinePlan) -> None:
    lock = json.loads(json.dumps(plan.lock()))
    ids = [(component["where"], component["id"]) for component in lock["components"]]
    assert ("$.objective.inner", "acme-parts:min-snr") in ids
    assert ("$.evaluate.metrics[0].solver.kernel", "acme-parts:gauss") in ids
    model = next(component for component in lock["components"] if component["kind"] == "model")
    assert model["version"] == "1.2.3"
    assert model["config"] == {key: value for key, value in plan.model.table.items() if key != "use"}
    assert set(lock["versions"]) == {"python", "torch", "atlas-core"}


def test_what_is_missing_comes_with_the_pip_line(plan: PipelinePlan) -> None:
    lock = plan.lock()
    assert missing(lock, plan.registry) == []
    found = missing(lock, Registry(Policy(), installed=[]), only=["model"])
    assert [(problem.where, problem.hint) for problem in found] == [("$.model", 'pip install "acme-parts==1.2.3"')]
    disabled = Registry(Policy(disabled={"acme-parts:net": "[plugins] disable"}), installed=plan.registry.installed)
    (problem,) = missing(lock, disabled)
    assert "disabled by [plugins] disable" in problem.message


def test_another_version_is_told(plan: PipelinePlan) -> None:
    newer = plan.registry.installed[0]._replace(
        entries=tuple(entry._replace(version="2.0") for entry in plan.registry.installed[0].entries)
    )
    lines = changed(plan.lock(), Registry(Policy(), installed=[newer]))
    assert lines == ["acme-parts 2.0 is installed, the lock names 1.2.3"]


def test_the_plan_reads_well(document: Any, registry: Registry) -> None:
    text = document(FULL, "sampling.guidance.use=momentum", "train.steps=7").resolve(registry).describe()
    assert text.splitlines()[0].startswith("everything  (from ")
    for piece in ("acme-parts 1.2.3", "width = 64", "steps = 7", "items of 1 × 8 × 8, 4 classes", "vector of width 16"):
        assert piece in text
    assert "note: $.sampling.guidance: momentum in place of cfg; dropped its settings scale" in text
    assert max(map(len, text.splitlines()[1:])) <= 100


def test_plugins_of_the_config_decide(document: Any, registry: Registry) -> None:
    disabling = document(MINIMAL, "plugins.disable=['acme-parts:heun']")
    assert disabling.plugins().disable == ("acme-parts:heun",)
    assert disabling.registry().policy.refusal("acme-parts", "heun") == "disabled by [plugins] disable"


TRANSPORT = """\
[source]
use = "scans"
[target]
use = "scans"
classes = 2
[solver]
use = "sinkhorn"
epsilon = 0.5
[solver.kernel]
use = "gauss"
scale = 2
[evaluate]
metrics = ["score"]
"""


def test_a_transport_pipeline(document: Any, registry: Registry, parts: Any) -> None:
    opened = document(TRANSPORT, "solver.epsilon=1")
    assert opened.is_transport
    plan = opened.resolve(registry)
    assert isinstance(plan, TransportPlan)
    assert plan.solver.build() == parts.Sinkhorn(kernel=parts.Gauss(scale=2.0), epsilon=1.0)
    assert [len(dataset.spec.classes) for dataset in plan.datasets] == [10, 2]
    assert tomllib.loads(to_toml(plan.table)) == plan.table
    assert document(to_toml(plan.table)).resolve(registry).table == plan.table
    assert "sinkhorn" in plan.describe()
    assert len(plan.lock()["components"]) == 5


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("solver.kernel=signed", "$.solver.kernel.use"),
        ("train.steps=5", "$.train"),
        ("solver.epsilon=0", "$.solver.epsilon"),
    ],
)
def test_a_transport_pipeline_has_its_problems_too(
    document: Any, registry: Registry, override: str, where: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        document(TRANSPORT, override).resolve(registry)
    assert [problem.where for problem in caught.value.problems] == [where]


def test_source_and_target_live_in_the_same_space(
    document: Any, registry: Registry, parts: Any, monkeypatch: Any
) -> None:
    spec = parts.Scans.spec.fget
    shapes = property(lambda self: attrs.evolve(spec(self), shape=(self.classes,)))
    monkeypatch.setattr(parts.Scans, "spec", shapes)
    with pytest.raises(ConfigError, match="cannot be compared"):
        document(TRANSPORT).resolve(registry)


@pytest.mark.parametrize("override", ["plugins.disable=['acme']", "objective=min-snr", "process=line"])
def test_an_override_that_a_checkpoint_could_only_ignore(plan: PipelinePlan, registry: Registry, override: str) -> None:
    with pytest.raises(UsageError, match="cannot be changed after training"):
        PipelinePlan.from_table(plan.table, registry, overrides=[override])


def test_an_override_of_a_checkpoint_that_cannot_be_read(plan: PipelinePlan, registry: Registry) -> None:
    for text in ("[[=3", "=3", "sampling"):
        with pytest.raises(ConfigError, match="cannot be opened"):
            PipelinePlan.from_table(plan.table, registry, overrides=[text])


@pytest.mark.parametrize("override", ["data.use=gaussian-mixture", "data={use='digits'}", "evaluate.count=5"])
def test_sample_refuses_what_changes_no_sample(override: str, capsys: Any) -> None:
    assert main(["sample", "no-such-run", override]) == 2
    assert "changes no sample" in capsys.readouterr().err
