"""`atlas-core describe [KIND/]NAME`: what a component is for, what can be set, and who made it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from atlas_core.plugins.describe import Description, Field
    from atlas_core.plugins.registry import Registry


@click.command(name="describe")
@click.argument("component", metavar="[KIND/]NAME")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def describe(component: str, as_json: bool) -> None:
    """Show a component: its settings with their ranges, what it can do, its provider and its paper.

    KIND/NAME is as in `sampler/heun`, or `heun` where only one kind has that name; where several providers have it,
    `sampler/provider:heun`.
    """
    from atlas_core.plugins.describe import describe as describe_component
    from atlas_core.plugins.registry import default_registry

    registry = default_registry()
    entry = registry.resolve(*_named(component, registry))
    description = describe_component(entry, registry.load(entry))
    if as_json:
        click.echo(json.dumps(description.as_json(), indent=2, ensure_ascii=False))
    else:
        _show(description)


def _named(component: str, registry: Registry) -> tuple[str, str]:
    """Return the kind and the name that are meant. Raises UsageError."""
    from atlas_core.errors import UsageError
    from atlas_core.plugins.kinds import HOOKS, UNKNOWN, check_kind

    kind, separator, name = component.partition("/")
    if not separator:
        return _kind_of(component, registry), component
    if not name:
        raise UsageError(f"{component!r} is no KIND/NAME", hint="As in `atlas-core describe sampler/heun`.")
    if check_kind(kind) in (HOOKS, UNKNOWN):
        raise UsageError(f"{kind!r} are no components", hint="`atlas-core list-plugins` shows them.")
    return kind, name


def _kind_of(name: str, registry: Registry) -> str:
    """Return the one kind that has `name`, installed or known to be installable. Raises UsageError."""
    from atlas_core.errors import UsageError
    from atlas_core.plugins.kinds import KINDS
    from atlas_core.plugins.known import names
    from atlas_core.plugins.suggest import did_you_mean

    short = name.rpartition(":")[2]
    every = {kind.name: {row.name for row in registry.entries(kind.name)} for kind in KINDS}
    kinds = [kind for kind, those in every.items() if short in those]
    if not kinds:
        every = {kind: those | set(names(kind)) for kind, those in every.items()}
        kinds = [kind for kind, those in every.items() if short in those]
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        ids = ", ".join(f"{kind}/{name}" for kind in kinds)
        raise UsageError(f"{len(kinds)} kinds have a component {name!r}", hint=f"Write one of {ids}.")
    if name in every:
        hint = f"`atlas-core list-plugins --kind {name}` lists its components."
        raise UsageError(f"{name!r} is a kind, no component", hint=hint)
    raise UsageError(
        f"there is no component {name!r}{did_you_mean(short, set().union(*every.values()))}",
        hint="`atlas-core list-plugins` lists all.",
    )


def _show(description: Description) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.padding import Padding
    from rich.table import Table

    entry = description.entry
    console = Console(highlight=False)
    console.print(f"[bold]{entry.kind}/{escape(entry.name)}[/bold]  {escape(description.summary)}")
    if description.text:
        console.print(Padding(escape(description.text), (1, 0, 0, 2)))
    if description.fields:
        # Two columns and no more: a table of all five leaves too little room for any of them, and cuts the names.
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, overflow="fold")
        table.add_column(overflow="fold")
        for field in description.fields:
            first = "; ".join(filter(None, (field.type, _default(field), field.range)))
            lines = "\n".join(filter(None, (first, field.help)))
            table.add_row(f"[bold]{escape(field.name)}[/bold]", escape(lines))
        console.print(Padding(table, (1, 0, 0, 2)))
    facts = {name: _spelled(value) for name, value in description.capabilities.items()}
    facts |= {"provider": f"{entry.provider} {entry.version}", "target": entry.target, "paper": description.paper}
    console.print()
    for name, value in facts.items():
        if value:
            console.print(f"  [bold]{name}[/bold]  {escape(value)}", soft_wrap=True)


def _default(field: Field) -> str:
    from atlas_core.config.ranges import shown

    if field.fact:
        return f"from {field.fact}"
    if field.required:
        return "required"
    held = field.kind and isinstance(field.default, str)
    return f"default {shown(field.default.rpartition(':')[2] if held else field.default)}"


def _spelled(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (", ".join(map(str, value)) or "nothing") if isinstance(value, list) else str(value)
