"""One pipeline from config to samples: what `atlas-core run` does, for Python."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas_core.asked import check_whole, conditions, seeds_from
from atlas_core.config.document import load_document
from atlas_core.config.lock import missing
from atlas_core.config.plan import PipelinePlan
from atlas_core.config.writing import to_toml
from atlas_core.engine.checkpoint import Checkpoint, open_checkpoint
from atlas_core.errors import CheckpointError, UsageError
from atlas_core.fitted_grids import planned
from atlas_core.plugins.events import Events
from atlas_core.plugins.registry import default_registry
from atlas_core.runs.atomic import write_atomically
from atlas_core.runs.folder import RunFolder

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from atlas_core.contracts import DataSpec, Denoiser, NoiseSource
    from atlas_core.engine.network import Network
    from atlas_core.engine.scores import Evaluation
    from atlas_core.engine.task import Task
    from atlas_core.engine.training.trainer import TrainResult

SAMPLED_WITH = ("process", "parametrization", "model", "conditioner", "sampler", "grid", "guidance")
"""Kinds that a checkpoint cannot be sampled without."""


class Pipeline:
    """Train, sample, score and report, each when it is asked for.

        pipeline = Pipeline.from_config("digits", ["train.steps=500"])
        pipeline.train()
        images = pipeline.sample(16, seed=0, condition=7)

    `plan` is the resolved config, `run` the folder of the run (None: nothing is written), `events` the hooks that are
    told; register a progress bar or a tracker there.
    """

    def __init__(self, plan: PipelinePlan, run: RunFolder | None = None, *, strict: bool = False) -> None:
        """`strict`: a hook that raises stops the run instead of being switched off."""
        self.plan = plan
        self.run = run
        self.events = Events(plan.registry, strict=strict)
        self.timings: dict[str, float] = {}
        self._network: Network | None = None
        self._weak: Network | None = None
        self.checkpoint: Path | None = None
        """What it was opened from."""
        self._table = plan.table
        self._overrides: tuple[str, ...] = ()
        self._strict = strict

    @classmethod
    def from_config(
        cls, target: str | Path, overrides: Sequence[str] = (), run: RunFolder | None = None, *, strict: bool = False
    ) -> Pipeline:
        """Resolve a preset or a config file. Raises ConfigError with all problems at once, UsageError for transport."""
        plan = load_document(target, overrides).resolve()
        if not isinstance(plan, PipelinePlan):
            raise UsageError(f"{plan.origin} couples two data sets and trains nothing", hint=f"atlas-core run {target}")
        return cls(plan, run, strict=strict)

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, overrides: Sequence[str] = (), *, average: bool = True, strict: bool = False
    ) -> Pipeline:
        """Open a run folder or a checkpoint; `overrides` may change how it samples.

        `average`: with the moving average of the weights, else with the weights themselves. Raises CheckpointError,
        which says what to install, if a component is not here; ConfigError for the overrides.
        """
        checkpoint = open_checkpoint(path)
        problems = missing(checkpoint.lock, default_registry(), only=SAMPLED_WITH)
        if problems:
            raise CheckpointError(f"{checkpoint.path} needs components that are not here", problems=problems)
        plan = planned(checkpoint.table, checkpoint.path, overrides)
        inside = checkpoint.path.parent.parent
        run = RunFolder(inside) if checkpoint.path.parent.name == "checkpoints" else None
        pipeline = cls(plan, run, strict=strict)
        pipeline._network = pipeline._load(checkpoint, average)
        pipeline.checkpoint, pipeline._table = checkpoint.path, checkpoint.table
        pipeline._overrides = tuple(overrides)
        return pipeline

    def __repr__(self) -> str:
        state = "trained" if self.is_trained else "not trained yet"
        return f"<Pipeline {self.plan.name!r}, {state}>"

    # ---- what it holds ---------------------------------------------------------------------------------------------

    @property
    def is_trained(self) -> bool:
        """Whether there is a network to draw from."""
        return self._network is not None

    @property
    def network(self) -> Network:
        """The network that samples are drawn from. Raises UsageError before there is one."""
        if self._network is None:
            raise UsageError("this pipeline is not trained yet", hint="call train() first, or open a checkpoint")
        return self._network

    @property
    def spec(self) -> DataSpec:
        """Shape, range and classes of the data, as they were when the network was trained."""
        spec = self.plan.facts.spec
        assert spec is not None  # a plan is not resolved without it
        return spec

    @property
    def device(self) -> torch.device:
        """Where it trains and samples."""
        from atlas_core.engine.training.hardware import resolve_device

        return resolve_device(self.plan.train.device)

    def new_network(self) -> Network:
        """Build the network with the initial weights that the seed gives."""
        from atlas_core.networks import new_network

        return new_network(self.plan)

    def _load(self, checkpoint: Checkpoint, average: bool) -> Network:
        from atlas_core.networks import load_network

        return load_network(self.plan, checkpoint, average=average).to(self.device).eval()

    # ---- training --------------------------------------------------------------------------------------------------

    def train(self, *, resume: bool = False) -> TrainResult:
        """Train, leaving checkpoints and metrics in the run folder; without one, `runs/<name>` is made.

        Afterwards `sample` draws from the averaged weights. Raises RunError, the last checkpoint being intact.
        """
        from atlas_core.engine.training.trainer import Trainer

        self._has_weak_model()  # what is missing of it is said now, not after the training
        run = self._run_folder()
        with self.timed("setup"):
            network = self.new_network()
            lock = self.plan.lock()
            trainer = Trainer(
                network,
                self.plan.objective.build(),
                self.plan.dataset,
                self.plan.train,
                run,
                events=self.events,
                plan_table=self.plan.table,
                lock=lock,
                on_sample=self._preview,
                on_begin=lambda: self._write_config(run, lock),
            )
        with self.timed("training"):
            result = trainer.fit(resume=resume)
        latest = run.latest_checkpoint()
        if latest is not None:
            self._network = self._load(open_checkpoint(latest), average=True)
        return result

    def _write_config(self, run: RunFolder, lock: dict[str, Any]) -> None:
        # Not before the trainer has accepted it: a refused --resume would otherwise change the run that it refuses.
        write_atomically(run.config_toml, to_toml(self.plan.table))
        write_atomically(run.lock_json, json.dumps(lock, indent=2))

    def _run_folder(self) -> RunFolder:
        if self.run is None:
            self.run = RunFolder.create("runs", self.plan.name)
        return self.run

    def _preview(self, network: Network, step: int) -> None:
        from atlas_core.report.pictures import preview

        if not self._has_weak_model():
            return  # an earlier checkpoint of this run, which has none yet
        before, self._network = self._network, network
        try:
            preview(self, step)
        finally:
            self._network, self._weak = before, None  # what is the earliest checkpoint changes

    def _has_weak_model(self) -> bool:
        """Whether what guidance needs is there by now. Raises CheckpointError for another run's that is not."""
        guidance = self.plan.sampling.guidance
        if "weak-model" not in guidance.needs:
            return True
        from atlas_core.weak_model import is_there

        return is_there(guidance.weak_model, self)

    def varied(self, overrides: Sequence[str]) -> Pipeline:
        """Return a pipeline that draws from the same network with other settings. Raises ConfigError for them."""
        registry, overrides = self.plan.registry, [*self._overrides, *overrides]
        if self.checkpoint is None:
            plan = PipelinePlan.from_table(self._table, registry, overrides=overrides)
        else:
            plan = planned(self._table, self.checkpoint, overrides, registry)
        other = Pipeline(plan, self.run, strict=self._strict)
        other.events, other.checkpoint, other._table = self.events, self.checkpoint, self._table
        other._network, other._overrides = self._network, tuple(overrides)
        return other

    # ---- sampling --------------------------------------------------------------------------------------------------

    def sample(
        self,
        n: int,
        *,
        seed: int | None = None,
        steps: int | None = None,
        nfe: int | None = None,
        condition: Any = None,
        batch: int | None = None,
    ) -> Tensor:
        """Draw n samples -> float32 (n, *item) on the CPU; images lie in [−1, 1].

        Sample i is drawn from `seed` + i: it is the same alone, in any batch and on any device. `condition`: what
        the conditioner takes, or a list of n of these; None draws unconditionally. A class is given by its index, an
        int, or its name, a string: the digit 7 by 7 or "7". `steps` or `nfe` replace the config's. Raises UsageError.
        """
        seeds = seeds_from(self.plan.sampling.seed if seed is None else seed, n)
        return self.draw(seeds, self.conditions(condition, n), steps=steps, nfe=nfe, batch=batch)

    def draw(
        self,
        seeds: Sequence[int],
        inputs: Sequence[Any] | None = None,
        *,
        steps: int | None = None,
        nfe: int | None = None,
        batch: int | None = None,
        on_step: Any = None,
        task: Task | None = None,
        shape: Sequence[int] | None = None,
    ) -> Tensor:
        """Draw one sample a seed, with one conditioner input a seed -> float32 (n, *item), clamped to the data's range.

        `on_step(step, rows)` sees every step of the sampler and the rows that it concerns. `task`, `shape`: for
        `atlas_core.tasks`, which start elsewhere, know a part of the sample, or draw items of another shape.
        """
        from atlas_core.drawing import draw
        from atlas_core.engine.task import PLAIN

        for name, value in (("steps", steps), ("nfe", nfe), ("batch", batch)):
            if value is not None:
                check_whole(name, value, least=1)
        task, shape = PLAIN if task is None else task, self.spec.shape if shape is None else shape
        times = self.times(steps=steps, nfe=nfe, latest=task.latest)
        return draw(self, times, seeds, inputs, batch=batch, on_step=on_step, task=task, shape=shape)

    def weak_network(self) -> Network | None:
        """Return the network that guidance leads away from, opened once; None where it needs none."""
        guidance = self.plan.sampling.guidance
        if self._weak is None and "weak-model" in guidance.needs:
            from atlas_core.weak_model import open_weak

            self._weak = open_weak(guidance.weak_model, self)
        return self._weak

    def times(self, *, steps: int | None = None, nfe: int | None = None, latest: float | None = None) -> Tensor:
        """Return the (steps + 1,) times that the sampler visits, float64; they start no later than at `latest`."""
        from atlas_core.engine.sampling import sampling_times, steps_for

        sampling = self.plan.sampling
        if steps is None and nfe is None:
            steps, nfe = sampling.steps, sampling.nfe
        count = steps_for(self.plan.sampler.build(), nfe=nfe, steps=steps)
        network = self.network
        return sampling_times(sampling.grid, network.process, network.parametrization, count, latest=latest)

    def denoiser(self, n: int, condition: Any = None) -> Denoiser:
        """Return the network bound to `condition` for n samples, as `sample` takes it, without guidance."""
        from atlas_core.engine.sampling import bind

        return bind(self.network, n, self.conditions(condition, n), None, None)

    def noise(self, seed: int, n: int) -> NoiseSource:
        """Return the noise of the samples with seeds `seed`, `seed` + 1, …, n of them."""
        from atlas_core.engine.noise import CounterNoise

        return CounterNoise.from_seeds(range(seed, seed + n))

    @property
    def start_time(self) -> float:
        """The time that sampling starts at: the latest at which process and parametrization are finite."""
        from atlas_core.engine.sampling import start_time

        return start_time(self.network.process, self.network.parametrization)

    def conditions(self, condition: Any, n: int) -> list[Any] | None:
        """Return what the conditioner encodes for n samples: `condition` as `sample` takes it."""
        if condition is not None and self.network.conditioner is None:
            raise UsageError("a condition was given, but this network was trained without a conditioner")
        return conditions(condition, n, self.spec.classes)

    # ---- scores ----------------------------------------------------------------------------------------------------

    def evaluate(self) -> Evaluation:
        """Score `evaluate.count` samples beside the training split and the baselines, class by class alike.

        Raises UsageError if the config names no metric.
        """
        from atlas_core.engine.evaluation import evaluate

        settings, plan = self.plan.evaluate, self.plan
        if not plan.metrics:
            raise UsageError(
                "there is no metric to score with",
                hint="""Add `evaluate.metrics=[{use="two-sample"}]`; more: `atlas-core list-plugins --kind metric`.""",
            )
        conditioned = self.network.conditioner is not None
        with self.timed("evaluation"):
            return evaluate(
                lambda labels, seeds: self.draw(seeds, labels if conditioned else None),
                plan.dataset,
                [metric.build() for metric in plan.metrics],
                [baseline.build() for baseline in plan.baselines],
                count=settings.count,
                split=settings.split,
                seed=plan.sampling.seed,
                labelled=conditioned,
            )

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds that the block takes to `timings`."""
        began = time.perf_counter()
        yield
        self.timings[phase] = round(self.timings.get(phase, 0.0) + time.perf_counter() - began, 3)


def load(path: str | Path, overrides: Sequence[str] = (), *, average: bool = True) -> Pipeline:
    """Open a run folder or a checkpoint for sampling: `load("runs/digits").sample(16, seed=0, condition=7)`."""
    return Pipeline.from_checkpoint(path, overrides, average=average)
