"""Train a network: the loop, and what happens between its steps."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import nn

from atlas_core.config.sections import TrainConfig
from atlas_core.contracts import Dataset, Objective
from atlas_core.engine.checkpoint import open_checkpoint, save
from atlas_core.engine.training.data import ReadAhead, RowReader
from atlas_core.engine.training.hardware import cpu_threads
from atlas_core.engine.training.interrupt import Interrupt
from atlas_core.engine.training.keys import borrowed_generator
from atlas_core.engine.training.learner import Learner
from atlas_core.engine.training.order import Order, Rows
from atlas_core.engine.training.resume import check_counters, check_resumable
from atlas_core.engine.training.validation import Validation
from atlas_core.engine.training.window import NotFiniteError, Window
from atlas_core.errors import RunError, UsageError
from atlas_core.runs.atomic import remove_leftovers
from atlas_core.runs.folder import RunFolder

_USUAL_RATE = 1e-3
"""A learning rate that AdamW takes with most networks: what is advised where the user's was far above it."""


@attrs.frozen
class TrainResult:
    """How a training ended."""

    steps: int
    """Optimizer steps that are done, those before a resume included."""
    seconds: float
    """Wall clock of this call."""
    stopped: str
    """Empty: it ran to the end; else the signal that ended it, SIGINT or SIGTERM."""
    resume_command: str
    """What to type to go on."""
    notes: tuple[str, ...] = ()
    """What differs from the checkpoint that the run was resumed from."""
    timings: dict[str, float] = attrs.field(factory=dict)
    """Seconds by phase: steps, validation, samples, checkpoints."""


class Trainer:
    """Trains `network` on `dataset` with `objective`, and leaves metrics and checkpoints in `run`.

    Every random draw is keyed by (seed, purpose, step, global sample index), so a run that is stopped anywhere and
    resumed has the bits of one that was not, and N ranks of batch B are one rank of batch N · B.
    """

    def __init__(
        self,
        network: nn.Module | Mapping[str, nn.Module],
        objective: Objective,
        dataset: Dataset,
        config: TrainConfig,
        run: RunFolder,
        events: Any = None,
        plan_table: Mapping[str, Any] | None = None,
        lock: Mapping[str, Any] | None = None,
        on_sample: Callable[[Any, int], None] | None = None,
        on_begin: Callable[[], None] | None = None,
    ) -> None:
        """`on_sample(network, step)` gets the network with averaged weights (a dict of them, if there are several).

        `on_begin()` is called once it is sure that the run may start, or go on, with this config.

        Raises ConfigError for what the machine or the objective cannot do.
        """
        self.config, self.run = config, run
        self._dataset, self._events, self._on_sample, self._on_begin = dataset, events, on_sample, on_begin
        self._table, self._lock = dict(plan_table or {}), dict(lock or {})
        self._learner = Learner(network, objective, config, getattr(dataset, "augment", None))
        self._main: bool = self._learner.accelerator.is_main_process
        self._window = Window(frozenset({"loss"} if self._learner.scaled else {"loss", "grad_norm"}))
        # Waiting for a GPU after every step would leave it idle; on the CPU there is nothing to wait for.
        self._pull_every = 1 if self._learner.device.type == "cpu" else min(10, config.log_every)
        self._seconds_before = 0.0
        self._timings = {"steps": 0.0, "validation": 0.0, "samples": 0.0, "checkpoints": 0.0}

    def fit(self, resume: bool = False) -> TrainResult:
        """Train to `config.steps`, from the start or from the run's newest checkpoint.

        Raises RunError for a loss that is not finite, a full disk or a folder without write permission; the newest
        checkpoint is good in each case. Raises UsageError to resume with a config of another run, or to start over
        where there are checkpoints; CheckpointError if the newest one is damaged.
        """
        config = self.config
        self._began = time.perf_counter()
        with contextlib.ExitStack() as stack:
            stack.enter_context(cpu_threads(config.threads))
            reader = RowReader(self._dataset.split("train"), tuple(self._dataset.spec.shape))
            self._order = Order(reader.count, config.batch, config.seed)
            self._share = self._order.share(self._learner.rank, self._learner.ranks)
            self._rows = stack.enter_context(ReadAhead(reader, self._examples))
            start, notes = self._begin(resume)
            if self._on_begin is not None and self._main:
                self._on_begin()
            self._score = self._validation(stack)
            self._reseed = stack.enter_context(borrowed_generator(self._learner.device))
            interrupt = stack.enter_context(Interrupt())
            done = self._run(start, interrupt)
        seconds = time.perf_counter() - self._began
        stopped = interrupt.name if done < config.steps else ""
        return TrainResult(done, seconds, stopped, self.run.resume_command, notes, dict(self._timings))

    def _run(self, step: int, interrupt: Interrupt) -> int:
        """Take the steps from `step` on and return how many are done in all."""
        reason = "stopped"
        self._tell("train_start", self.run, self._table, step, self.config.steps)
        try:
            while step < self.config.steps and not self._stopping(interrupt, step):
                with self._timed("steps"):
                    x, conditions = self._rows(step)
                    positions = self._order.positions(step)[self._share]
                    numbers = self._learner.step(step, x, conditions, positions, self._reseed)
                step += 1
                self._window.add(step, numbers)
                self._after(step)
            if interrupt.name and step and self.run.latest_checkpoint() != self.run.checkpoint_of(step):
                self._pull()
                self._checkpoint(step)
            if step == self.config.steps:
                reason = "finished"
        except Exception as error:
            reason = str(error)
            raise
        finally:
            self._tell("train_end", self.run, step, reason)
        return step

    def _after(self, step: int) -> None:
        """Log, validate, draw samples and save, where this step is due for it; the last step always logs and saves."""
        config, end = self.config, step == self.config.steps
        log, save_now = end or step % config.log_every == 0, end or step % config.checkpoint_every == 0
        validate = self._score is not None and (end or step % config.validate_every == 0)
        logs = self._pull() if log or save_now or step % self._pull_every == 0 else {}
        line: dict[str, Any] = {}
        if log:
            line |= {
                **self._window.close(),
                "learning_rate": self._learner.schedule(step - 1),
                "seconds": self._seconds(),
            }
        if validate:
            line["validation_loss"] = self._validate()
        if line and self._main:
            self.run.journal.append(step, line, intact=self._intact())
        self._tell("train_step", self.run, step, config.steps, logs | line)
        if config.sample_every and step % config.sample_every == 0:
            self._draw(step)
        if save_now:
            self._checkpoint(step)

    # ---- before the first step ---------------------------------------------------------------------------------

    def _begin(self, resume: bool) -> tuple[int, tuple[str, ...]]:
        if self._main:
            self.run.prepare()
            remove_leftovers(self.run.path)
        latest = self.run.latest_checkpoint()
        if latest is not None and not resume:
            hint = f"`{self.run.resume_command}` goes on with it"
            raise UsageError(f"{self.run.path} has checkpoints of an earlier training", hint=hint)
        if latest is None:
            self._rewind(-1)
            return 0, ("there was no checkpoint yet: it starts from step 0",) if resume else ()
        checkpoint = open_checkpoint(latest)
        check_counters(checkpoint)
        notes = check_resumable(checkpoint, self.config, self._table, self._order.count)
        for note in notes:
            warnings.warn(f"resumed with another setting: {note}", stacklevel=3)
        self._learner.load(checkpoint)
        self._window.load(checkpoint.counters["window"])
        self._seconds_before = float(checkpoint.counters["seconds"])
        self._rewind(checkpoint.step)
        return checkpoint.step, tuple(notes)

    def _rewind(self, step: int) -> None:
        if self._main:
            self.run.journal.rewind(step)

    def _validation(self, stack: contextlib.ExitStack) -> Validation | None:
        config = self.config
        score = Validation.of(self._dataset, seed=config.seed, batch=config.batch) if config.validate_every else None
        if score is not None:
            stack.callback(score.close)
        return score

    def _examples(self, step: int) -> Rows:
        return self._order.examples(step)[self._share]

    # ---- between steps -----------------------------------------------------------------------------------------

    def _pull(self) -> dict[str, float]:
        accelerator = self._learner.accelerator
        try:
            return self._window.pull((lambda t: accelerator.reduce(t, "mean")) if self._learner.ranks > 1 else None)
        except NotFiniteError as error:
            rate = min(self.config.learning_rate / 3, _USUAL_RATE)
            smaller = f"{self.run.resume_command} train.learning_rate={rate:.2g}"
            raise RunError(
                f"the {error.name} is {error.value} at step {error.step}; {self._intact()}",
                hint=f"a smaller learning rate may help: `{smaller}`",
            ) from error

    def _validate(self) -> float:
        with self._timed("validation"):
            assert self._score is not None
            return self._score(self._learner.average.module)

    def _draw(self, step: int) -> None:
        if self._on_sample is None or not self._main:
            return
        networks = dict(self._learner.average.module.networks.items())
        with self._timed("samples"), torch.no_grad():
            self._on_sample(next(iter(networks.values())) if len(networks) == 1 else networks, step)

    def _checkpoint(self, step: int) -> None:
        counters = self._learner.counters() | {
            "position": step * self.config.batch,
            "seed": self.config.seed,
            "examples": self._order.count,
            "window": self._window.state(),
            "seconds": self._seconds(),
            "train": attrs.asdict(self.config),
        }
        if self._main:
            with self._timed("checkpoints"):
                self.run.journal.sync()
                tensors = self._learner.tensors()
                keep = self.config.keep_checkpoints
                path = save(self.run, step, **tensors, counters=counters, table=self._table, lock=self._lock, keep=keep)
            self._tell("checkpoint_saved", self.run, path, step)
        self._learner.accelerator.wait_for_everyone()

    # ---- small things ------------------------------------------------------------------------------------------

    def _stopping(self, interrupt: Interrupt, step: int) -> bool:
        if self._learner.ranks == 1:
            return bool(interrupt.name)
        if step % self._pull_every:
            return False
        # A signal reaches the ranks at different steps; they must agree on the last one.
        flag = torch.tensor(float(bool(interrupt.name)), device=self._learner.device)
        if not float(self._learner.accelerator.reduce(flag, "sum")):
            return False
        interrupt.name = interrupt.name or "SIGTERM"
        return True

    def _intact(self) -> str:
        latest = self.run.latest_checkpoint()
        return f"the checkpoint {latest} is intact" if latest else "no checkpoint was written yet"

    def _seconds(self) -> float:
        return round(self._seconds_before + time.perf_counter() - self._began, 3)

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._timings[phase] += time.perf_counter() - began

    def _tell(self, event: str, *args: Any) -> None:
        if self._events is not None and self._main:
            getattr(self._events, event)(*args)
