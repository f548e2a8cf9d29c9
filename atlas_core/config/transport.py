"""From the tables `[source]`, `[target]`, `[solver]`, `[evaluate]` to a TransportPlan."""

from __future__ import annotations

from typing import Any

from atlas_core.config import negotiate, overrides, places
from atlas_core.config.facts import Facts
from atlas_core.config.pipeline import pipeline_name, refuse_unknown_tables
from atlas_core.config.plan import TransportPlan
from atlas_core.config.resolved import Resolved
from atlas_core.config.sections import EvaluateConfig, PluginsConfig
from atlas_core.config.structure import Reader
from atlas_core.errors import AtlasError
from atlas_core.plugins.registry import Registry

COMPONENTS = {"source": "dataset", "target": "dataset", "solver": "solver"}
TABLES = ("name", *COMPONENTS, "evaluate", "plugins")


def is_transport(tables: dict[str, Any]) -> bool:
    """True for a config of two bodies of data and a solver, rather than of a network."""
    return any(name in tables for name in COMPONENTS) and "model" not in tables and "data" not in tables


def resolve(applied: overrides.Applied, registry: Registry, *, name: str) -> TransportPlan:
    """Resolve a transport pipeline. Raises ConfigError with every problem, or the data's own error."""
    tables = applied.source.tables
    reader = Reader(registry, facts=Facts().values(), source=applied.source)
    reader.problems.extend(applied.problems)
    refuse_unknown_tables(reader, tables, TABLES)
    name = pipeline_name(reader, tables, name)
    plugins = reader.section(PluginsConfig, tables.get("plugins", {}), "$.plugins")
    source, target = _component(reader, tables, "source"), _component(reader, tables, "target")
    datasets, errors = _built(source, target)
    specs = [dataset.spec if dataset is not None else None for dataset in datasets]
    facts = Facts(spec=specs[0], widths={})
    reader.facts = facts.values()
    solver = _component(reader, tables, "solver")
    evaluate = reader.section(EvaluateConfig, tables.get("evaluate", {}), "$.evaluate")
    shapes = [spec.shape for spec in specs if spec is not None]
    if len(set(shapes)) > 1:
        message = f"points of shape {shapes[1]} cannot be compared with those of the source, {shapes[0]}"
        reader.report(message, "$.target")
    for section in (solver, evaluate):
        for finding in negotiate.kernel_findings(section) if section else ():
            reader.report(finding.message, finding.where, finding.hint)
    if errors and not reader.problems:
        raise errors[0]
    for error in errors:
        reader.report_error(error, "$")
    reader.raise_problems(f"{applied.source.name} cannot be run")
    if not (source and target and solver and evaluate and plugins):
        raise AssertionError("a part is missing without a problem")
    sections = {"source": source, "target": target, "solver": solver, "evaluate": evaluate, "plugins": plugins}
    return TransportPlan(
        name=name,
        source=source,
        target=target,
        solver=solver,
        evaluate_section=evaluate,
        plugins=plugins.config,
        facts=facts,
        datasets=(datasets[0], datasets[1]),
        table={"name": name, **{key: section.table for key, section in sections.items()}},
        registry=registry,
        origin=applied.source.name,
        notes=applied.notes,
    )


def default_use(where: str) -> None:
    """No table of a transport pipeline stands for a component without naming it."""


def _component(reader: Reader, tables: dict[str, Any], name: str) -> Resolved | None:
    where = places.child(places.ROOT, name)
    if name not in tables:
        reader.report("missing", where, f'Add [{name}] with use = "…".')
        return None
    component: Resolved | None = reader.component(COMPONENTS[name], tables[name], where)
    return component


def _built(*resolved: Resolved | None) -> tuple[list[Any], list[AtlasError]]:
    datasets: list[Any] = []
    errors: list[AtlasError] = []
    for component in resolved:
        datasets.append(None)
        if component is not None:
            try:
                dataset = component.build()
                _ = dataset.spec
                datasets[-1] = dataset
            except AtlasError as error:
                errors.append(error)
    return datasets, errors
