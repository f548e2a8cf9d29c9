"""`atlas-core describe KIND/NAME`: what a component is for, what can be set, and who made it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from atlas_core.plugins.describe import Description, Field


@click.command(name="describe")
@click.argument("component", metavar="KIND/NAME")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def describe(component: str, as_json: bool) -> None:
    """Show a component: its settings with their ranges, what it can do, its provider and its paper.

    KIND/NAME is as in `sampler/heun`; where several providers have the name, `sampler/provider:heun`.
    """
    from atlas_core.errors import UsageError
    from atlas_core.plugins.describe import describe as describe_component
    from atlas_core.plugins.kinds import HOOKS, UNKNOWN, check_kind
    from atlas_core.plugins.registry import default_registry

    kind, separator, name = component.partition("/")
    if not separator or not name:
        raise UsageError(f"{component!r} is no KIND/NAME", hint="As in `atlas-core describe sampler/heun`.")
    if check_kind(kind) in (HOOKS, UNKNOWN):
        raise UsageError(f"{kind!r} are no components", hint="`atlas-core list-plugins` shows them.")
    registry = default_registry()
    entry = registry.resolve(kind, name)
    description = describe_component(entry, registry.load(entry))
    if as_json:
        click.echo(json.dumps(description.as_json(), indent=2, ensure_ascii=False))
    else:
        _show(description)


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
        table = Table(
            "setting", "type", "default", "range", "meaning", box=None, padding=(0, 2, 0, 0), header_style="bold"
        )
        for field in description.fields:
            cells = (field.name, field.type, _default(field), field.range, field.help)
            table.add_row(*map(escape, cells))
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
    if field.kind and isinstance(field.default, str):
        return shown(field.default.rpartition(":")[2])
    return shown(field.default)


def _spelled(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (", ".join(map(str, value)) or "nothing") if isinstance(value, list) else str(value)
