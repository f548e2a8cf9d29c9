"""Train in a process of its own, so that a test can kill it.

`resume_child.py FOLDER [--stop-inside STEP] [--slow] [--still] [--coupled]` prints one line a step. With
`--stop-inside`, the write of that checkpoint says INSIDE half-way and never ends; with `--slow` there is time to be
killed between two steps; with `--still` nothing drops out; with `--coupled` noise is paired with data.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import tiny_training as tiny
import torch


def say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


class Progress:
    """Says each step, slowly enough to be killed between two."""

    def __init__(self, pause: float) -> None:
        self.pause = pause

    def train_step(self, run, step, steps, logs) -> None:
        say(step)
        time.sleep(self.pause)

    def train_start(self, *args) -> None: ...

    def train_end(self, *args) -> None: ...

    def checkpoint_saved(self, *args) -> None: ...


def hang_inside(step: int) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if f"step-{step:08d}" in name and name.endswith("networks.safetensors"):
            say("INSIDE")
            time.sleep(600)
        real(descriptor)

    os.fsync = fsync


def main() -> None:
    torch.set_num_threads(1)
    folder, options = Path(sys.argv[1]), sys.argv[2:]
    if "--stop-inside" in options:
        hang_inside(int(options[options.index("--stop-inside") + 1]))
    progress = Progress(0.01 if "--slow" in options else 0.0)
    network = tiny.tiny(dropout=0.0 if "--still" in options else 0.1)
    objective = tiny.Coupled() if "--coupled" in options else tiny.Regression()
    settings = tiny.config(batch=9) if "--coupled" in options else None  # shares of 4 and 5 rows
    result = tiny.trainer(folder, settings, events=progress, network=network, objective=objective).fit(
        resume=folder.exists()
    )
    say(f"ended {result.steps} {result.stopped or 'finished'}")


if __name__ == "__main__":
    main()
