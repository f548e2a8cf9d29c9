"""The command `atlas-core`: nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0, 1 (it failed), 2 (it was asked wrongly), 3 (a transport that did not converge), 130 (interrupted).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or bool(os.environ.get("ATLAS_DEBUG"))
    arguments = [argument for argument in arguments if argument != "--debug"]
    warnings.showwarning = _show_warning
    if arguments[:1] == ["list-plugins"]:
        from atlas_core.cli.list_plugins import main as list_plugins

        return _guarded(lambda: list_plugins(arguments[1:]), debug)

    def group() -> int:
        from atlas_core.cli.group import atlas_core

        return int(atlas_core.main(args=arguments, prog_name="atlas-core", standalone_mode=False) or 0)

    return _guarded(group, debug)


def _guarded(command: Callable[[], int], debug: bool) -> int:
    try:
        return command()
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader of a pipe, as `head`, has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        from atlas_core.errors import AtlasError  # not before: it would cost every listing the import of attrs

        code = _click_exit_code(error)
        if code is not None:
            return code
        if debug:
            raise
        if isinstance(error, AtlasError):
            return _fail(f"error: {error}", error.exit_code)
        name = type(error).__name__
        return _fail(f"error: this is a mistake in Atlas or a plugin: {name}: {error}\n  `--debug` shows where.", 1)


def _click_exit_code(error: Exception) -> int | None:
    """Let click say what was wrong with the arguments; None for an error that is not click's."""
    if "click" not in sys.modules:
        return None
    import click

    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.Abort):
        return _fail("interrupted", 130)
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    return None


def _fail(message: str, code: int) -> int:
    sys.stderr.write(message + "\n")
    return code


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    # A user has no use for the line of our code that warned. Libraries' own deprecations are for their authors.
    if not issubclass(category, DeprecationWarning | FutureWarning | PendingDeprecationWarning):
        sys.stderr.write(f"warning: {message}\n")
