"""`atlas-core list-plugins`: what is installed, and whether it works.

The command has a fast path: `main` reads its options itself, so that a listing imports neither click nor any plugin.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from atlas_core.plugins.registry import Registry

if TYPE_CHECKING:
    import click

    from atlas_core.plugins.scan import Entry

    list_plugins: click.Command

_HELP = """List every installed component and hooks module, and what is wrong with it.

Nothing is imported: a status is what the last check found, or `unverified`. --check imports each plugin in a process of
its own, and remembers what it finds."""
_COLUMNS = ("kind", "name", "provider", "version", "status", "target")


class _Options(NamedTuple):
    kind: str | None = None
    check: bool = False
    as_json: bool = False


def main(argv: Sequence[str]) -> int:
    """Run the command with the arguments that follow its name, and return the exit code."""
    options = _parse(argv)
    if options is None:  # --help, or something that click explains better
        result = _command().main(args=list(argv), prog_name="atlas-core list-plugins", standalone_mode=False)
        return int(result or 0)
    return run(options)


def _parse(argv: Sequence[str]) -> _Options | None:
    options = _Options()
    arguments = iter(argv)
    for argument in arguments:
        name, _, value = argument.partition("=")
        if argument == "--json":
            options = options._replace(as_json=True)
        elif argument == "--check":
            options = options._replace(check=True)
        elif name == "--kind" and (value or (value := next(arguments, ""))):
            options = options._replace(kind=value)
        else:
            return None
    return options


def run(options: _Options) -> int:
    """Print the listing."""
    registry = Registry()
    if options.kind is not None:
        registry.listing(options.kind)  # refuses an unknown kind before a check takes its time
    if options.check:
        from atlas_core.plugins.check import check

        check(registry)
    rows = registry.listing(options.kind)
    notes = _notes(registry)
    if options.as_json:
        import json

        content = {"schema": 1, "plugins": [row._asdict() for row in rows], "notes": notes}
        sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(_table(rows))
        sys.stderr.write("".join(f"note: {note}\n" for note in notes))
    return 0


def _notes(registry: Registry) -> list[str]:
    unknown = registry.policy.unknown(entry for one in registry.installed for entry in one.entries)
    return registry.verdicts.notes + [
        f"{name!r} in ATLAS_PLUGINS or ATLAS_DISABLE_PLUGINS is not installed" for name in unknown
    ]


def _table(rows: Sequence[Entry]) -> str:
    if not rows:
        return "No plugin is installed. `pip install atlas-core[all]` brings those of Atlas itself.\n"
    cells = [_COLUMNS, *([getattr(row, column) for column in _COLUMNS] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    result = [lines[0].upper()]
    for row, line in zip(rows, lines[1:], strict=True):
        result += [line, f"    {row.reason}"] if row.reason else [line]
    return "\n".join(result) + "\n"


def _command() -> click.Command:
    import click

    @click.command(name="list-plugins", help=_HELP)
    @click.option("--kind", help="Only this kind, as `sampler`; `hooks` are modules of hooks.")
    @click.option("--check", is_flag=True, help="Import each plugin in a process of its own, and say what happens.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    def command(kind: str | None, check: bool, as_json: bool) -> int:
        return run(_Options(kind, check, as_json))

    return command


def __getattr__(name: str) -> Any:
    if name == "list_plugins":  # the click command, made when a group asks for it
        return _command()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
