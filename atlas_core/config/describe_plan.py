"""A plan as a person reads it before a run: what will happen, in the words of the config."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from atlas_core.config.facts import PARTS, Facts
from atlas_core.config.plan import COMPONENTS, PipelinePlan, TransportPlan
from atlas_core.config.ranges import shown
from atlas_core.config.resolved import Resolved, Section, Several

_INDENT = "  "


def describe_pipeline(plan: PipelinePlan) -> str:
    """Return one line a part: component, what the user set, provider and version; then facts and notes."""
    rows = []
    for name in COMPONENTS:
        component = getattr(plan, name)
        rows += _component(name, component) if component else [(name, "none", "")]
    for name, section in plan.sections.items():
        rows += _section(name, section)
    return _page(plan.name, plan.origin, rows, _facts(plan.facts), plan.notes)


def describe_transport(plan: TransportPlan) -> str:
    """Return one line a part, then facts and notes."""
    rows = [*_component("source", plan.source), *_component("target", plan.target), *_component("solver", plan.solver)]
    rows += _section("evaluate", plan.evaluate_section)
    return _page(plan.name, plan.origin, rows, _facts(plan.facts), plan.notes)


def _component(label: str, component: Resolved) -> list[tuple[str, str, str]]:
    text = " ".join(part for part in (component.entry.name, _given(component)) if part)
    return [(label, text, f"{component.entry.provider} {component.entry.version}"), *_nested(component)]


def _section(label: str, section: Section) -> list[tuple[str, str, str]]:
    rows = _nested(section)
    given = _given(section)
    if not given and not rows:
        return [] if label == "plugins" else [(label, "as by default", "")]
    return [(label, given, ""), *rows]


def _nested(section: Section) -> list[tuple[str, str, str]]:
    rows = []
    for name, value in section.settings.items():
        for component in value if isinstance(value, Several) else (value,):
            if isinstance(component, Resolved):
                rows += [(_INDENT + label, *rest) for label, *rest in _component(name, component)]
    return rows  # type: ignore[return-value]


def _given(section: Section) -> str:
    nested = [name for name, value in section.settings.items() if isinstance(value, (Resolved, Several))]
    return ", ".join(
        f"{name} = {shown(section.table.get(name))}"
        for name in section.settings
        if name in section.given and name not in nested
    )


def _facts(facts: Facts) -> list[str]:
    lines = []
    if spec := facts.spec:
        size = " × ".join(str(side) for side in spec.shape)
        classes = f"{len(spec.classes)} classes" if spec.classes else "no classes"
        low_high = f"values in {shown(spec.value_range)}" if spec.value_range else "values unbounded"
        lines.append(f"items of {size}, {classes}, {low_high}, standard deviation {spec.std:.4g}")
    widths = facts.widths or {}
    if made := [f"{part} of width {widths[part]}" for part in PARTS if widths.get(part)]:
        lines.append(f"condition: {', '.join(made)}")
    return lines


def _page(name: str, origin: str, rows: list[tuple[str, str, str]], facts: list[str], notes: Iterable[str]) -> str:
    title = f"{name}  (from {origin})" if origin else name
    left = max(len(label) for label, _, _ in rows) + 2
    middle = min(max(len(text) for _, text, _ in rows) + 2, 60)
    lines: list[Any] = [title, ""]
    for label, text, provider in rows:
        lines.append(f"{_INDENT}{label:<{left}}{text:<{middle}}{provider}".rstrip())
    if facts:
        lines += ["", *(f"{_INDENT}{fact}" for fact in facts)]
    if notes:
        lines += ["", *(f"{_INDENT}note: {note}" for note in notes)]
    return "\n".join(lines)
