"""From the tables of a config to components: names resolved, values checked, defaults and derived settings filled in.

A `Reader` goes on after a problem and collects them all; whoever owns it raises them together.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from atlas_core.config import places, ranges
from atlas_core.config.facts import UNKNOWN
from atlas_core.config.nearest import did_you_mean
from atlas_core.config.resolved import Resolved, Section, Several, config_class
from atlas_core.config.source import Place, Source
from atlas_core.config.values import NULL, convert, is_plain, plain
from atlas_core.errors import AtlasError, ConfigError, PluginError, Problem
from atlas_core.fields import FACTS

if TYPE_CHECKING:
    from atlas_core.plugins.registry import Registry

_ABSENT: Any = object()
"""A setting that could not be read; its problem is on the list."""


def structure(
    kind: str,
    table: Mapping[str, Any] | str,
    *,
    facts: Mapping[str, Any],
    registry: Registry,
    where: str = places.ROOT,
    source: Source | None = None,
) -> Resolved:
    """Resolve one component from its table, as in `{use = "heun", …}`, or from its name alone.

    `facts` fill the derived fields (names in `atlas_core.fields.FACTS`). Raises ConfigError with every problem.
    """
    reader = Reader(registry, facts=facts, source=source)
    resolved = reader.component(kind, table, where)
    reader.raise_problems(f"the {kind} cannot be set up")
    assert isinstance(resolved, Resolved)  # a table gives a component or a problem
    return resolved


class Reader:
    """Reads sections and components, and collects what is wrong with them.

    facts: values of derived fields, by name. A component that needs one which is `UNKNOWN` is left out without a
    problem, since the reason is on the list already.
    """

    def __init__(self, registry: Registry, *, facts: Mapping[str, Any], source: Source | None = None) -> None:
        self.registry = registry
        self.facts = facts
        self.source = source
        self.problems: list[Problem] = []

    def raise_problems(self, summary: str) -> None:
        """Raise ConfigError if there is any problem: those of the command line first, then from the top of the file."""
        if self.problems:
            count = len(self.problems)
            problems = sorted(self.problems, key=lambda problem: problem.line)
            raise ConfigError(f"{summary}: {count} problem{'s' if count > 1 else ''}", problems=problems)

    def report(self, message: str, where: str, hint: str = "") -> None:
        """Add a problem at `where`."""
        place = self._place(where)
        self.problems.append(Problem(message, where=where, file=place.file, line=place.line, hint=hint))

    def report_error(self, error: AtlasError, where: str) -> None:
        """Add what an error says, at `where`; those problems of a config that it carries keep their places."""
        if isinstance(error, ConfigError) and error.problems:
            self.problems.extend(error.problems)
        else:
            self.report(error.message, where, error.hint)

    def section(self, cls: type, table: Any, where: str) -> Section | None:
        """Read a table that is no component, as `[train]`, into an attrs class; None if there is a problem."""
        if not isinstance(table, Mapping):
            self.report(f"expected a table, got {ranges.shown(table)}", where)
            return None
        read = self._settings(cls, table, where, owner="")
        if read is None:
            return None
        section = Section(
            cls=cls, settings=read[0], table=read[1], given=tuple(table), where=where, place=self._place(where)
        )
        return section if self._holds_together(section) else None

    def component(self, kind: str, value: Any, where: str, *, default: Any = attrs.NOTHING) -> Any:
        """Read a component from a name, a table with `use`, or (from Python) the component itself.

        Returns a Resolved, or the given object, or None if there is a problem. A table without `use` means `default`.
        """
        if not is_plain(value):
            return value
        table = self._with_use(kind, value, where, default)
        if table is None:
            return None
        name, named_at = table["use"], where if isinstance(value, str) else places.child(where, "use")
        try:
            entry = self.registry.resolve(kind, name)
            target = self.registry.load(entry)
        except AtlasError as error:
            self.report_error(error, named_at)
            return None
        cls = config_class(target)
        if cls is None:
            self.report(
                f"{entry.id} is neither an attrs class nor has it a Config",
                named_at,
                "`atlas-core list-plugins --check` shows what every plugin does.",
            )
            return None
        given = {key: setting for key, setting in table.items() if key != "use"}
        read = self._settings(cls, given, where, owner=f"{kind}/{entry.name}")
        if read is None:
            return None
        settings, resolved_table = read
        resolved = Resolved(
            cls=cls, settings=settings, table={"use": entry.id, **resolved_table}, given=tuple(given), where=where,
            place=self._place(where), kind=kind, entry=entry, target=target,
        )  # fmt: skip
        return resolved if self._holds_together(resolved) else None

    def _with_use(self, kind: str, value: Any, where: str, default: Any) -> dict[str, Any] | None:
        fallback = {"use": default} if isinstance(default, str) else default if isinstance(default, Mapping) else {}
        if isinstance(value, str):
            return {"use": value}
        if not isinstance(value, Mapping):
            self.report(f"expected a {kind}: its name, or a table with `use`; got {ranges.shown(value)}", where)
            return None
        table = dict(value) if "use" in value else {**fallback, **value}
        if "use" not in table:
            names = sorted({entry.name for entry in self.registry.entries(kind)})
            self.report(f"`use` is missing: which {kind}?", where, f"Installed: {', '.join(names)}." if names else "")
            return None
        if not isinstance(table["use"], str):
            self.report(f"expected the name of a {kind}, got {ranges.shown(table['use'])}", places.child(where, "use"))
            return None
        return table

    def _settings(
        self, cls: type, table: Mapping[str, Any], where: str, owner: str
    ) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return the arguments of cls, nested components unbuilt, and the table that would give them again."""
        fields = {field.alias: field for field in attrs.fields(cls) if field.init}
        before, unknown_fact = len(self.problems), False
        self._refuse_unknown(table, fields, where, owner)
        settings: dict[str, Any] = {}
        for name, field in fields.items():
            value = self._setting(cls, name, field, table, places.child(where, name))
            if value is _ABSENT:
                unknown_fact = True
            else:
                settings[name] = self._settled(field, value, places.child(where, name))
        self._validate(cls, fields, settings, table, where)
        if unknown_fact or len(self.problems) > before:
            return None
        written = {
            name: _written(value) for name, value in settings.items() if not _is_default_null(fields[name], value)
        }
        return settings, written

    def _refuse_unknown(self, table: Mapping[str, Any], known: Mapping[str, Any], where: str, owner: str) -> None:
        for key in table:
            if key not in known:
                listing = f"`atlas-core describe {owner}` lists the settings." if owner else ""
                hint = " ".join(part for part in (did_you_mean(key, known), listing) if part)
                self.report("unknown key", places.child(where, key), hint)

    def _setting(self, cls: type, name: str, field: attrs.Attribute[Any], table: Mapping[str, Any], where: str) -> Any:
        if "kind" in field.metadata:
            return self._nested(ranges.type_of(cls, field), field, table.get(name, _ABSENT), where)
        fact = field.metadata.get("fact", "")
        if name in table:
            return self._value(table[name], ranges.type_of(cls, field), where, finite=not _takes_infinity(field))
        if self.facts.get(fact) is UNKNOWN:
            return _ABSENT
        if self.facts.get(fact) is not None:
            return self._value(self.facts[fact], ranges.type_of(cls, field), where)
        if field.default is not attrs.NOTHING:
            return _default(field)
        why = f": in a pipeline it is the {FACTS.get(fact, fact)}" if fact else ""
        self.report(f"`{name}` is missing{why}", places.parent(where), str(field.metadata.get("help", "")))
        return _ABSENT

    def _settled(self, field: attrs.Attribute[Any], value: Any, where: str) -> Any:
        """Return what the field's converter makes of a text, so that the table does not depend on where it is read.

        A relative path becomes absolute here, for example. What a converter makes of other types, or a converter that
        changes its own result, is the constructor's business alone: a config could not hold it.
        """
        if not isinstance(value, str) or not inspect.isroutine(converter := field.converter):
            return value
        try:
            settled = converter(value)
            return settled if isinstance(settled, str) and converter(settled) == settled else value
        except ValueError as error:
            self.report(str(error), where)
            return value

    def _value(self, value: Any, annotation: Any, where: str, *, finite: bool = True) -> Any:
        if annotation is Any:
            return None if value == NULL and isinstance(value, str) else value
        converted, complaints = convert(value, annotation, where, finite=finite)
        for complaint in complaints:
            self.report(complaint.message, complaint.where, complaint.hint)
        return _ABSENT if complaints else converted

    def _nested(self, annotation: Any, field: attrs.Attribute[Any], value: Any, where: str) -> Any:
        kind, default = field.metadata["kind"], field.metadata["default_use"]
        if value is _ABSENT:
            value = default
        if value is attrs.NOTHING:
            self.report(f"a {kind} is missing", where, f'Give one: {field.alias} = {{ use = "…" }}.')
            return _ABSENT
        if value is None or value == NULL:
            if default is None or ranges.may_be_null(annotation):
                return None
            self.report(f"expected a {kind}, got null", where)
            return _ABSENT
        if not field.metadata["many"]:
            resolved = self.component(kind, value, where, default=default)
            return _ABSENT if resolved is None else resolved
        if not isinstance(value, (list, tuple)):
            self.report(f"expected a list of {kind}s, got {ranges.shown(value)}", where, 'Write [{ use = "…" }].')
            return _ABSENT
        each = [self.component(kind, entry, places.child(where, index)) for index, entry in enumerate(value)]
        return _ABSENT if any(entry is None for entry in each) else Several(each)

    def _validate(
        self,
        cls: type,
        fields: Mapping[str, attrs.Attribute[Any]],
        settings: Mapping[str, Any],
        table: Mapping[str, Any],
        where: str,
    ) -> None:
        """Run every validator, not just up to the first that refuses, as the constructor would."""
        plain_settings = {name: value for name, value in settings.items() if "kind" not in fields[name].metadata}
        instance: Any = object.__new__(cls)
        for name, value in plain_settings.items():
            object.__setattr__(instance, fields[name].name, value)
        for name, value in plain_settings.items():
            field, fact = fields[name], fields[name].metadata.get("fact")
            if field.validator is None or field.converter is not None or (name not in table and not fact):
                continue  # the constructor sees to converters and defaults
            try:
                refusal = ranges.violation(field.validator, instance, field, value)
            except AttributeError:
                if len(settings) == len(fields):
                    raise
                continue  # it compares with a setting whose own problem is on the list
            if refusal and name in table:
                self.report(refusal, places.child(where, name))
            elif refusal:
                self.report(
                    f"`{name}`, which is the {FACTS[str(fact)]}: {refusal}", where, str(field.metadata.get("help", ""))
                )

    def _holds_together(self, section: Section) -> bool:
        """Construct it once where that is cheap: what a class checks about several settings together shows here."""
        if section.light:
            try:
                _ = section.config
            except AtlasError as error:
                self.report_error(error, section.where)
                return False
        return True

    def _place(self, where: str) -> Place:
        return self.source.locate(where) if self.source else Place("")


def _takes_infinity(field: attrs.Attribute[Any]) -> bool:
    """True where the class itself names inf or nan: as default, as an option, or by `infinite` in the metadata."""
    if field.metadata.get("infinite"):
        return True
    named = (field.default, *ranges.options(field.validator))
    return any(isinstance(value, float) and not math.isfinite(value) for value in named)


def _default(field: attrs.Attribute[Any]) -> Any:
    factory: Any = field.default
    if not isinstance(factory, attrs.Factory):  # type: ignore[arg-type]
        return field.default
    if factory.takes_self:
        raise PluginError(f"the default of {field.name!r} depends on its owner, so no config can show it")
    return factory.factory()


def _is_default_null(field: attrs.Attribute[Any], value: Any) -> bool:
    default = field.metadata.get("default_use", field.default)
    return value is None and default is None


def _written(value: Any) -> Any:
    if isinstance(value, Section):
        return value.table
    if isinstance(value, Several):
        return [_written(entry) for entry in value]
    return NULL if value is None else plain(value)
