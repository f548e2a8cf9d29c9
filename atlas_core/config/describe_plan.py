"""A plan as a person reads it before a run: what will happen, in the words of the config."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import NamedTuple

from atlas_core.config.facts import PARTS, Facts
from atlas_core.config.plan import COMPONENTS, PipelinePlan, TransportPlan
from atlas_core.config.ranges import shown
from atlas_core.config.resolved import Resolved, Section, Several

_INDENT = "  "
_WIDTH = 100


def describe_pipeline(plan: PipelinePlan) -> str:
    """Return the parts, each with its provider and what the user set; then facts and notes."""
    rows: list[_Row] = []
    for name in COMPONENTS:
        component = getattr(plan, name)
        rows += _component(name, component) if component else [_Row(name, "none")]
    for name, section in plan.sections.items():
        rows += _section(name, section)
    return _page(plan.name, plan.origin, rows, _facts(plan.facts), plan.notes)


def describe_transport(plan: TransportPlan) -> str:
    """Return the parts, each with its provider and what the user set; then facts and notes."""
    parts = {"source": plan.source, "target": plan.target, "solver": plan.solver}
    rows = [row for name, component in parts.items() for row in _component(name, component)]
    rows += _section("evaluate", plan.evaluate_section)
    return _page(plan.name, plan.origin, rows, _facts(plan.facts), plan.notes)


class _Row(NamedTuple):
    """One part: what it is, what does it, which distribution that comes from, and what the user set."""

    label: str
    name: str = ""
    provider: str = ""
    settings: str = ""


def _component(label: str, component: Resolved) -> list[_Row]:
    provider = f"{component.entry.provider} {component.entry.version}"
    return [_Row(label, component.entry.name, provider, _given(component)), *_nested(component)]


def _section(label: str, section: Section) -> list[_Row]:
    given, nested = _given(section), _nested(section)
    return [_Row(label, settings=given), *nested] if given or nested else []


def _nested(section: Section) -> list[_Row]:
    rows = []
    for name, value in section.settings.items():
        for component in value if isinstance(value, Several) else (value,):
            if isinstance(component, Resolved):
                rows += [row._replace(label=_INDENT + row.label) for row in _component(name, component)]
    return rows


def _given(section: Section) -> str:
    plain = [name for name, value in section.settings.items() if not isinstance(value, (Resolved, Several))]
    # Unbreakable spaces keep a name and its value on one line; _page takes them out again.
    settings = (f"{name} = {shown(section.table.get(name))}" for name in plain if name in section.given)
    return ", ".join(setting.replace(" ", "\N{NO-BREAK SPACE}") for setting in settings)


def _facts(facts: Facts) -> list[str]:
    lines = []
    if spec := facts.spec:
        size = " × ".join(str(side) for side in spec.shape)
        classes = f"{len(spec.classes)} classes" if spec.classes else "no classes"
        values = "from {:g} to {:g}".format(*spec.value_range) if spec.value_range else "unbounded"
        lines.append(f"items of {size}, {classes}, values {values}, standard deviation {spec.std:.4g}")
    widths = facts.widths or {}
    if made := [f"{part} of width {widths[part]}" for part in PARTS if widths.get(part)]:
        lines.append(f"condition: {', '.join(made)}")
    return lines


def _page(name: str, origin: str, rows: list[_Row], facts: list[str], notes: Iterable[str]) -> str:
    left, middle = (max(len(row[column]) for row in rows) + 2 for column in (0, 1))
    margin = " " * (len(_INDENT) + left)
    lines = [f"{name}  (from {origin})", ""]
    for row in rows:
        beside = f"{row.name:<{middle}}{row.provider}" if row.name else ""
        wrapped = textwrap.wrap(row.settings, _WIDTH - len(margin))
        if not beside and wrapped:
            beside = wrapped.pop(0)
        lines.append(f"{_INDENT}{row.label:<{left}}{beside}".rstrip())
        lines += [margin + line for line in wrapped]
    lines += ["", *(_INDENT + fact for fact in facts)] if facts else []
    lines += ["", *(f"{_INDENT}note: {note}" for note in notes)] if notes else []
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")
