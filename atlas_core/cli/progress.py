"""Progress on the terminal, as a plugin like any other: it hears the same hooks as a stranger's tracker."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from atlas_core import hookimpl


class Bars:
    """Bars with loss and time left on a terminal; one line now and then where there is none, as in a log file."""

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Left

        self._console = Console(stderr=True, quiet=quiet)
        self._live = self._console.is_terminal and not quiet
        columns = (TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(
            *columns, TextColumn("left"), Left(), TextColumn("{task.fields[note]}"), console=self._console
        )
        self._training: Any = None
        self._drawing: Any = None
        self._began = (0.0, 0)
        self._quiet = quiet

    def __enter__(self) -> Bars:
        if self._live:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line without disturbing the bars."""
        if not self._quiet:
            self._console.print(text, highlight=False, markup=False)

    def pulse(self, what: str) -> None:
        """Show, on a terminal, that work of unknown length goes on, and for how long it has."""
        if self._live:
            self._progress.add_task(what, total=None, note="")

    @hookimpl
    def atlas_train_start(self, step: int, steps: int) -> None:
        self._began = (time.monotonic(), step)
        if step:
            self.say(f"resumed at step {step} of {steps}" if step < steps else f"all {steps} steps are done already")
        if self._live:
            self._training = self._progress.add_task("training", total=steps, completed=step, note="")

    @hookimpl
    def atlas_train_step(self, step: int, steps: int, logs: Mapping[str, float]) -> None:
        if self._live:
            self._progress.update(self._training, completed=step)
            if "loss" in logs:
                self._progress.update(self._training, note=f"loss {logs['loss']:.4f}")
        elif "learning_rate" in logs:  # a step that metrics.jsonl has a line of
            began, first = self._began
            left = (time.monotonic() - began) / max(step - first, 1) * (steps - step)
            self.say(f"step {step}/{steps}  loss {logs.get('loss', float('nan')):.4f}  {_clock(left)} left")

    @hookimpl
    def atlas_train_end(self, step: int, reason: str) -> None:
        if not self._live and reason == "finished":
            self.say(f"trained {step} steps in {_clock(time.monotonic() - self._began[0])}")

    @hookimpl
    def atlas_sample_step(self, step: Any, steps: int) -> None:
        if not self._live:
            return
        if self._drawing is None:
            self._drawing = self._progress.add_task("sampling", total=steps, note="")
        if step.index == 0:
            self._progress.reset(self._drawing, total=steps, visible=True)
        self._progress.update(self._drawing, completed=step.index + 1, visible=step.index + 1 < steps)


def result(text: str) -> None:
    """Print what a command is for, on standard output; everything else goes to standard error."""
    sys.stdout.write(text + "\n")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
