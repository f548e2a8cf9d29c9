"""The group of all commands, each imported when it is called."""

from __future__ import annotations

import importlib
import os
from typing import Any

import click

import atlas_core as package

COMMANDS = {
    "run": ("run:run", "Train, sample, score and report: the whole pipeline of a preset or a config file."),
    "train": ("train:train", "Train alone; --resume goes on with a run that was stopped."),
    "sample": ("sample:sample", "Draw samples from a run or a checkpoint."),
    "edit": ("edit:edit", "Draw variations of images, missing parts, missing detail."),
    "evaluate": ("evaluate:evaluate", "Score a run against held-out data and simple baselines."),
    "fit-grid": (
        "fit_grid:fit_grid",
        "Fit the steps of a run's sampler to its network: better samples from few calls.",
    ),
    "compare": ("compare:compare", "Compare samplers at equal calls of a run's network."),
    "report": ("report:report", "Write report.html of a run again."),
    "transport": ("transport:transport", "Couple two files or folders by optimal transport, and map A onto B."),
    "presets": ("presets:presets", "List and show the pipelines that are ready to run."),
    "list-plugins": ("list_plugins:list_plugins", "List every installed component, and what is wrong with it."),
    "describe": ("describe:describe", "Show what a component is for, and its settings."),
    "doctor": ("doctor:doctor", "Examine this machine, torch and every plugin."),
}
"""Name -> (module:attribute below atlas_core.cli, what --help says of it)."""
HEAVY = ("run", "train", "sample", "edit", "evaluate", "fit-grid", "compare", "transport")


class Commands(click.Group):
    """Our commands by name, then those that plugins add through the hook `atlas_commands`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(name for name in self._of_plugins() if name not in COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return self._of_plugins().get(cmd_name)
        if cmd_name in HEAVY:
            _calm_openmp()
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"atlas_core.cli.{module}"), attribute)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            from atlas_core.plugins.suggest import did_you_mean

            known = self.list_commands(ctx)
            raise click.UsageError(f"there is no command {name!r}{did_you_mean(name, known)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, text) for name, (_, text) in COMMANDS.items()]
        added = self._of_plugins()
        rows += [(name, added[name].get_short_help_str(80)) for name in sorted(added) if name not in COMMANDS]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _of_plugins(self) -> dict[str, click.Command]:
        from atlas_core.plugins.events import Events
        from atlas_core.plugins.registry import default_registry

        found = Events(default_registry()).collect("atlas_commands")
        return {command.name: command for _, command in found if isinstance(command, click.Command) and command.name}


def _calm_openmp() -> None:
    # Threads that spin while they wait for each other take the processor from those that work: with more busy threads
    # than cores, training was seen to be 28 times slower. It counts only before torch is loaded; yours has precedence.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")


@click.group(cls=Commands, invoke_without_command=True, context_settings={"max_content_width": 110})
@click.version_option(package.__version__, prog_name="atlas-core")
@click.pass_context
def atlas_core(ctx: click.Context) -> None:
    """Generative transport in PyTorch: train, sample and score one pipeline in which every part is a plugin.

    \b
    atlas-core run digits                          real images in three minutes, then runs/digits/report.html
    atlas-core run digits sampler.use=heun         the same with one part swapped
    atlas-core describe sampler/heun               what a part is for, and its settings

    --debug, with any command, shows the traceback of an error.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
