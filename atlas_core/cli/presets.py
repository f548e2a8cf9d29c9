"""The commands `atlas-core presets list` and `atlas-core presets show NAME`."""

from __future__ import annotations

import json
from typing import Any

import click

from atlas_core.config.presets import Offer, find, offers
from atlas_core.plugins.registry import default_registry

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group(invoke_without_command=True)
@click.pass_context
def presets(context: click.Context) -> None:
    """Pipelines that are ready to run, as `atlas-core run digits`."""
    if context.invoked_subcommand is None:
        context.invoke(list_presets)


@presets.command("list")
@_JSON
def list_presets(as_json: bool) -> None:
    """Show every preset and what it needs."""
    known = offers(default_registry())
    if as_json:
        click.echo(json.dumps({"schema": 1, "presets": [_as_json(offer) for offer in known]}, indent=2))
        return
    if not known:
        click.echo("No preset is installed. Some come with: pip install atlas-datasets-builtin")
    width = max((len(offer.preset.name) for offer in known), default=0)
    indent = " " * (width + 2)
    for offer in known:
        click.echo(f"{offer.preset.name:<{width}}  {offer.preset.summary}")
        needs = ", ".join(f"{what}: {amount}" for what, amount in offer.preset.needs.items())
        click.echo(f"{indent}{needs}\n{indent}from {offer.provider}" if needs else f"{indent}from {offer.provider}")
    if known:
        click.echo(f"\nRun one with `atlas-core run {known[0].preset.name}`, or see it with `atlas-core presets show`.")


@presets.command("show")
@click.argument("name")
@_JSON
def show_preset(name: str, as_json: bool) -> None:
    """Print the config of a preset, ready to be saved and changed."""
    offer = find(name, default_registry())
    if as_json:
        content = {"schema": 1, **_as_json(offer), "text": offer.preset.text, "tables": offer.preset.source().tables}
        click.echo(json.dumps(content, indent=2))
        return
    # Comments, so that the output is a config: `atlas-core presets show digits > mine.toml`.
    click.echo(f"# {offer.id}: {offer.preset.summary}")
    for what, amount in offer.preset.needs.items():
        click.echo(f"# {what}: {amount}")
    click.echo("\n" + offer.preset.text.strip())


def _as_json(offer: Offer) -> dict[str, Any]:
    preset = offer.preset
    return {
        "name": preset.name,
        "provider": offer.provider,
        "summary": preset.summary,
        "needs": dict(preset.needs),
    }
