"""From the tables `[source]`, `[target]`, `[solver]`, `[evaluate]` to a TransportPlan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from atlas_core.config import negotiate, overrides, places
from atlas_core.config.facts import Facts
from atlas_core.config.nearest import did_you_mean
from atlas_core.config.pipeline import pipeline_name, refuse_unknown_tables
from atlas_core.config.plan import TransportPlan
from atlas_core.config.resolved import Resolved, Section
from atlas_core.config.sections import PluginsConfig, TransportConfig, TransportEvaluateConfig
from atlas_core.config.structure import Reader
from atlas_core.errors import AtlasError, ConfigError
from atlas_core.plugins.registry import Registry

COMPONENTS = {"source": "dataset", "target": "dataset", "solver": "solver"}
TABLES = ("name", *COMPONENTS, "transport", "evaluate", "plugins")


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
    transport = reader.section(TransportConfig, tables.get("transport", {}), "$.transport")
    evaluate = reader.section(TransportEvaluateConfig, tables.get("evaluate", {}), "$.evaluate")
    notes = applied.notes
    if all(dataset is not None for dataset in datasets):
        notes += tuple(_check_spaces(reader, datasets, target))
        _check_split(reader, evaluate, datasets[1])
    _check_device(reader, transport)
    for section in (solver, evaluate):
        for finding in negotiate.kernel_findings(section) if section else ():
            reader.report(finding.message, finding.where, finding.hint)
    if errors and not reader.problems:
        raise errors[0]
    for error in errors:
        reader.report_error(error, "$")
    reader.raise_problems(f"{applied.source.name} cannot be run")
    if not (source and target and solver and transport and evaluate and plugins):
        raise AssertionError("a part is missing without a problem")
    sections: dict[str, Section] = {"source": source, "target": target, "solver": solver}
    sections |= {"transport": transport, "evaluate": evaluate, "plugins": plugins}
    return TransportPlan(
        name=name,
        source=source,
        target=target,
        solver=solver,
        transport=transport.config,
        evaluate_section=evaluate,
        plugins=plugins.config,
        facts=facts,
        datasets=(datasets[0], datasets[1]),
        table={"name": name, **{key: section.table for key, section in sections.items()}},
        registry=registry,
        origin=applied.source.name,
        notes=notes,
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


def _check_spaces(reader: Reader, datasets: list[Any], target: Resolved | None) -> Iterator[str]:
    """Report points that cannot be compared; yield what should be known of those that can."""
    shapes = [tuple(dataset.spec.shape) for dataset in datasets]
    names = [tuple(getattr(dataset, "coordinates", ())) for dataset in datasets]
    choose = "columns" in attrs.fields_dict(target.cls) if target is not None else False
    if shapes[0] != shapes[1]:
        said = [
            f"{shape}: {', '.join(given)}" if given else str(shape) for shape, given in zip(shapes, names, strict=True)
        ]
        message = f"points of shape {said[1]} cannot be compared with those of the source, {said[0]}"
        reader.report(message, "$.target", "Choose the same with source.columns and target.columns." if choose else "")
    elif names[0] and names[1] and names[0] != names[1]:
        pairs = ", ".join(f"{first} with {second}" for first, second in list(zip(*names, strict=True))[:10])
        if sorted(names[0]) == sorted(names[1]):
            listed = ", ".join(f'"{name}"' for name in names[0])
            message = f"the columns are those of the source in another order: {', '.join(names[1])}"
            reader.report(message, "$.target", f"Set target.columns=[{listed}]." if choose else "")
        else:
            yield f"columns of other names are paired in their order: {pairs}"


def _check_split(reader: Reader, evaluate: Any, dataset: Any) -> None:
    split = evaluate.settings["split"] if evaluate is not None else None
    if split is not None and split not in dataset.splits:
        known = ", ".join(dataset.splits)
        message = f'the target has no split "{split}"; it has {known}'
        reader.report(message, "$.evaluate.split", did_you_mean(split, dataset.splits))


def _check_device(reader: Reader, transport: Any) -> None:
    if transport is None:
        return
    from atlas_core.engine.training.hardware import resolve_device  # torch is in by now, with the data

    try:
        resolve_device(transport.config.device)
    except ConfigError as error:
        for problem in error.problems:
            reader.report(problem.message, "$.transport.device", problem.hint)
