"""From the tables of a config to a PipelinePlan, or from those of a checkpoint back to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import attrs

from atlas_core.config import negotiate, overrides, places, ranges
from atlas_core.config.facts import Facts, disagreements
from atlas_core.config.nearest import did_you_mean
from atlas_core.config.plan import COMPONENTS, DEFAULTS, SECTIONS, PipelinePlan
from atlas_core.config.resolved import Resolved, Section
from atlas_core.config.source import Source
from atlas_core.config.structure import Reader
from atlas_core.config.values import NULL
from atlas_core.errors import AtlasError, ConfigError, UsageError
from atlas_core.plugins.registry import Registry, default_registry

TABLES = ("name", *COMPONENTS, *SECTIONS, "facts")
TRAINED = ("process", "parametrization", "model", "conditioner", "objective", "train", "name", "facts")
"""Tables that a checkpoint has made its own: no override changes them after training."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def default_use(where: str) -> str | None:
    """Return the component that a table without `use` at this path stands for."""
    _, _, path = where.partition(".")
    table, _, key = path.partition(".")
    if not key:
        return DEFAULTS.get(table)
    fields = attrs.fields_dict(SECTIONS[table]) if table in SECTIONS else {}
    default = fields[key].metadata.get("default_use") if key in fields else None
    return default if isinstance(default, str) else None


def resolve(applied: overrides.Applied, registry: Registry, *, name: str) -> PipelinePlan:
    """Resolve a whole pipeline, measuring its data. Raises ConfigError with every problem, or the data's own error."""
    source = applied.source
    assembly = _Assembly(source, registry)
    reader = assembly.reader
    reader.problems.extend(applied.problems)
    refuse_unknown_tables(reader, source.tables, TABLES)
    name = pipeline_name(reader, source.tables, name)
    assembly.measure()
    parts = {part: assembly.part(part) for part in (*COMPONENTS, *SECTIONS)}
    assembly.check_recorded_facts()
    assembly.negotiate(parts)
    assembly.check_machine(parts["train"], parts["objective"])
    assembly.raise_problems(f"{source.name} cannot be run")
    table: dict[str, Any] = {"name": name}
    table |= {part: section.table for part, section in parts.items() if section is not None}
    table["facts"] = assembly.facts.table()
    return _plan(assembly, name, table, applied)


def reopen(table: Mapping[str, Any], registry: Registry | None, texts: Sequence[str]) -> PipelinePlan:
    """Resolve the table of a checkpoint: what sampling takes now, the rest when it is asked for."""
    applied = overrides.apply(Source("the checkpoint's config", dict(table)), texts, default_use)
    source, changed = applied.source, set()
    for text in texts:
        with suppress(ValueError):  # its problem is on the list
            changed.add(str(overrides.parse(text).path[0]))
    if fixed := sorted(changed & set(TRAINED)):
        raise UsageError(f"{', '.join(fixed)} cannot be changed after training", hint="Train again with the override.")
    if "plugins" in changed:
        raise UsageError(
            "[plugins] cannot be changed after training: a checkpoint names its components in full",
            hint="ATLAS_DISABLE_PLUGINS=… leaves a plugin out.",
        )
    if "facts" not in source.tables:
        raise ConfigError(
            "this config is not a resolved one: it has no [facts]", hint="Open a run folder or a checkpoint."
        )
    assembly = _Assembly(source, registry or default_registry())
    assembly.reader.problems.extend(applied.problems)
    refuse_unknown_tables(assembly.reader, source.tables, TABLES)
    train = assembly.part("train")
    steps = train.config.steps if train else None
    assembly.recorded = Facts.from_table(source.tables["facts"], steps)
    # Whether the model takes jumps is in its own table; one that was written before there were any takes none.
    assembly.facts = attrs.evolve(assembly.recorded, jumps=False)
    needed = ("process", "parametrization", "model", "conditioner", "sampler", "sampling", "train", "plugins")
    parts = {part: assembly.part(part) for part in (*needed, *sorted(changed & {*COMPONENTS, *SECTIONS} - set(needed)))}
    if changed & {"sampler", "sampling"}:
        assembly.inspect_conditioner()
        assembly.negotiate({**parts, "objective": assembly.part("objective")})
    assembly.raise_problems("the pipeline cannot be opened")
    resolved = {**source.tables, **{part: parts[part].table for part in changed if parts.get(part)}}  # type: ignore[union-attr]
    return _plan(assembly, str(source.tables.get("name", "")), resolved, applied)


def refuse_unknown_tables(reader: Reader, tables: Mapping[str, Any], known: Sequence[str]) -> None:
    """Report every table that no pipeline of this form has."""
    for key in tables:
        if key not in known:
            reader.report("unknown table", places.child(places.ROOT, key), did_you_mean(key, known))


def pipeline_name(reader: Reader, tables: Mapping[str, Any], default: str) -> str:
    """Return the name of the run: the config's own, or `default`."""
    name = tables.get("name", default)
    if not isinstance(name, str):
        reader.report(f"expected a string, got {ranges.shown(name)}", "$.name", f"Quote it: '\"{name}\"'.")
    elif not _NAME.fullmatch(name):
        reader.report(f'"{name}" cannot name a folder of runs', "$.name", "Use letters, digits, `-`, `_` and `.`.")
    return str(name)


def _plan(assembly: _Assembly, name: str, table: dict[str, Any], applied: overrides.Applied) -> PipelinePlan:
    parts: Mapping[str, Any] = {
        part: assembly.part(part) for part in ("process", "parametrization", "model", "sampler")
    }
    return PipelinePlan(
        name=name,
        **parts,
        conditioner=assembly.part("conditioner"),  # type: ignore[arg-type]
        facts=assembly.facts,
        table=table,
        registry=assembly.reader.registry,
        origin=applied.source.name,
        notes=applied.notes,
        read=assembly.read,
    )


class _Assembly:
    """Reads the tables of one pipeline, each once, as they are asked for."""

    def __init__(self, source: Source, registry: Registry) -> None:
        self.source = source
        self.reader = Reader(registry, facts={}, source=source)
        self.facts = Facts()
        self.recorded = Facts()
        self.dataset: Any = None
        self.splits: tuple[str, ...] | None = None
        self.dropout: float | None = None
        self._parts: dict[str, Section | None] = {}
        self._data_error: AtlasError | None = None

    def part(self, name: str) -> Section | None:
        """Return one table, read; None if there is a problem with it, or for a conditioner that is not there."""
        if name not in self._parts:
            self.reader.facts = self.facts.values()
            self._parts[name] = self._read(name)
        return self._parts[name]

    def read(self, name: str) -> Any:
        """Return one table, or the `dataset`, for a plan. Raises ConfigError if there is a problem with it."""
        if name == "dataset":
            if self.dataset is None:
                self.dataset = self.read("data").build()
            return self.dataset
        part = self.part(name)
        self.reader.raise_problems(f"[{name}] cannot be set up")
        return part

    def _read(self, name: str) -> Section | None:
        where, tables = places.child(places.ROOT, name), self.source.tables
        if name in SECTIONS:
            return self.reader.section(SECTIONS[name], tables.get(name, {}), where)
        value, kind = tables.get(name), COMPONENTS[name]
        if value is None or (value == NULL and name == "conditioner"):
            value = DEFAULTS.get(name)
        if value is not None:
            component: Resolved | None = self.reader.component(
                kind, value, where, default=DEFAULTS.get(name, attrs.NOTHING)
            )
            return component
        if name != "conditioner":
            names = sorted({entry.name for entry in self.reader.registry.entries(kind)})
            self.reader.report("missing", where, f'Add [{name}] with use = "…": {", ".join(names)}.')
        return None

    def measure(self) -> None:
        """Find the facts: build the dataset, and the conditioner that derives from it."""
        train, data = self.part("train"), self.part("data")
        self.facts = Facts(steps=train.config.steps if train else None)
        if isinstance(data, Resolved):
            try:
                self.dataset = data.build()
                self.facts = attrs.evolve(self.facts, spec=self.dataset.spec)
                self.splits = tuple(self.dataset.splits)
            except AtlasError as error:
                self._data_error = error
        if "facts" in self.source.tables:
            try:
                self.recorded = Facts.from_table(self.source.tables["facts"])
            except AtlasError as error:
                self.reader.report_error(error, "$.facts")
        self.inspect_conditioner()
        self.inspect_objective()

    def inspect_objective(self) -> None:
        """Learn from the objective whether it trains a flow map."""
        objective = self.part("objective")
        if isinstance(objective, Resolved):
            try:
                jumps = negotiate.trained(negotiate.inspect(objective)) & negotiate.JUMPS
                self.facts = attrs.evolve(self.facts, jumps=bool(jumps))
            except AtlasError as error:
                self.reader.report_error(error, "$.objective")

    def inspect_conditioner(self) -> None:
        """Learn widths and dropout from the conditioner."""
        conditioner = self.part("conditioner")
        if conditioner is None:
            absent = self.source.tables.get("conditioner", NULL) == NULL
            self.facts = attrs.evolve(self.facts, widths={} if absent else None)
        elif isinstance(conditioner, Resolved):
            try:
                component = negotiate.inspect(conditioner)
                self.facts = attrs.evolve(self.facts, widths=dict(component.widths))
                self.dropout = float(component.dropout)
            except AtlasError as error:
                self.reader.report_error(error, "$.conditioner")

    def check_recorded_facts(self) -> None:
        """Refuse a resolved config that is run on other data than it was resolved for."""
        for where, message in disagreements(self.recorded, self.facts):
            self.reader.report(message, where, "Start from the preset or file that this config was resolved from.")

    def negotiate(self, parts: Mapping[str, Section | None]) -> None:
        """Report what does not fit together among the parts that could be read."""
        names = {field.name for field in attrs.fields(negotiate.Parts)}
        given: dict[str, Any] = {name: part for name, part in parts.items() if name in names}
        to_check = negotiate.Parts(self.reader.registry, self.facts, **given, splits=self.splits, dropout=self.dropout)
        try:
            for finding in negotiate.findings(to_check):
                self.reader.report(finding.message, finding.where, finding.hint)
        except AtlasError as error:
            self.reader.report_error(error, places.ROOT)

    def check_machine(self, train: Section | None, objective: Section | None) -> None:
        """Report what the training would refuse on this machine. A checkpoint is opened on any."""
        if train is None:
            return
        from atlas_core.engine.training.hardware import check_batch, check_machine  # torch is in by now

        checks: list[Callable[[], object]] = [lambda: check_machine(train.config)]
        if isinstance(objective, Resolved):
            checks.append(lambda: check_batch(train.config, negotiate.inspect(objective), ranks=1))
        for check in checks:
            try:
                check()
            except ConfigError as error:
                for problem in error.problems:
                    self.reader.report(problem.message, problem.where, problem.hint)

    def raise_problems(self, summary: str) -> None:
        """Raise what there is to raise; an error of the data alone keeps its own type and exit code."""
        if self._data_error and not self.reader.problems:
            raise self._data_error
        if self._data_error:
            self.reader.report_error(self._data_error, "$.data")
        self.reader.raise_problems(summary)
