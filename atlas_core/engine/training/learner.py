"""Take one optimizer step: all that has a state in training, and how that state is stored."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from atlas_core.config.sections import TrainConfig
from atlas_core.contracts import Batch, Objective
from atlas_core.engine.checkpoint import Checkpoint
from atlas_core.engine.noise import CounterNoise
from atlas_core.engine.training.coupling import couples, paired_over_ranks
from atlas_core.engine.training.ema import MovingAverage
from atlas_core.engine.training.hardware import check_batch, make_accelerator
from atlas_core.engine.training.keys import key
from atlas_core.engine.training.objective_step import ObjectiveStep
from atlas_core.engine.training.order import Rows
from atlas_core.engine.training.resume import load_optimizer, load_parts, optimizer_tensors
from atlas_core.engine.training.schedule import Schedule
from atlas_core.errors import UsageError

Augment = Callable[[Tensor, CounterNoise, int], Tensor]


class Learner:
    """Networks, their average, the optimizer and the loss scaler on one rank, wrapped by Accelerate.

    Raises ConfigError for what the machine or the objective cannot do, UsageError for networks that it does not train.
    """

    def __init__(
        self,
        network: nn.Module | Mapping[str, nn.Module],
        objective: Objective,
        config: TrainConfig,
        augment: Augment | None,
    ) -> None:
        self._config, self._augment, self._coupled = config, augment, couples(objective)
        self.accelerator = make_accelerator(config)
        self.ranks: int = self.accelerator.num_processes
        self.rank: int = self.accelerator.process_index
        self.device: torch.device = self.accelerator.device
        check_batch(config, objective, self.ranks)
        self.plain = ObjectiveStep(_by_name(network, objective), objective).to(self.device)
        self.schedule = Schedule(config.learning_rate, config.steps, config.warmup_steps, config.schedule)
        trained = [(name, p) for name, p in self.plain.named_parameters() if p.requires_grad]
        self._names, self._parameters = [name for name, _ in trained], [p for _, p in trained]
        if not trained:
            raise UsageError("there is nothing to train: the network has no parameters")
        self._adamw = _adamw(self._parameters, config)
        self._module = self.accelerator.prepare(self.plain)
        self.average = MovingAverage(self.plain, config.ema_decay)
        self.plain.train()

    @property
    def scaled(self) -> bool:
        """Whether losses are scaled: then an overflowing gradient is a step that is skipped, and no mistake."""
        return self.accelerator.scaler is not None

    def step(
        self, step: int, x: Tensor, conditions: Sequence[Any], positions: Rows, reseed: Callable[[int], None]
    ) -> dict[str, Tensor]:
        """Take step `step` (from 0) on this rank's rows x (b, *item); `positions` (b,) are their global sample indices.

        Returns 0-d numbers on the device: the loss, the norm of the gradient, and what the objective logs.
        """
        for group in self._adamw.param_groups:
            group["lr"] = self.schedule(step)
        numbers: dict[str, Tensor] = {}
        micros = self._config.accumulate
        batch = self._batch(x, conditions, torch.from_numpy(positions), step)
        for micro in range(micros):
            rows = slice(len(x) * micro // micros, len(x) * (micro + 1) // micros)
            # Ranks exchange gradients once a step, with the last micro-batch.
            with contextlib.nullcontext() if micro == micros - 1 else self.accelerator.no_sync(self._module):
                reseed(key(self._config.seed, "layers", step, self.rank, micro))
                part = self._backward(_rows_of(batch, rows))
            numbers = {name: numbers[name] + value if name in numbers else value for name, value in part.items()}
        numbers["grad_norm"] = self._update()
        return numbers

    def _batch(self, x: Tensor, conditions: Sequence[Any], index: Tensor, step: int) -> Batch:
        """Return this rank's batch on its device: augmented, and paired where the objective couples rows."""
        if self._augment is not None:
            x = self._augment(x, CounterNoise.for_training(self._config.seed, index), step)
        batch = Batch(x=x.to(self.device, non_blocking=True), condition=conditions, index=index, step=step)
        if self._coupled is not None:
            batch = paired_over_ranks(self._coupled, batch, self._config.seed, self.accelerator)
        return batch

    def _backward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.index is not None
        noise = CounterNoise.for_training(self._config.seed, batch.index)
        per_sample, logs = self._module(batch, noise)
        # The mean over the global batch, whatever the sizes of its parts: ranks are averaged, micro-batches added.
        weight = self.ranks / self._config.batch
        loss = per_sample.float().sum() * weight
        self.accelerator.backward(loss)
        share = len(batch.index) * weight
        # What an objective logs of times, as they are, lies on the CPU.
        further = {name: value.detach().float().mean().to(self.device) * share for name, value in logs.items()}
        return {"loss": loss.detach(), **further}

    def _update(self) -> Tensor:
        """Clip the gradient, step, and average, unless the scaled loss overflowed; return the norm of the gradient."""
        # Accelerate's wrapper of the optimizer looks for optional packages on the disk in every step: 0.5 ms.
        limit = self._config.clip_norm if self._config.clip_norm is not None else float("inf")
        scaler = self.accelerator.scaler
        if scaler is None:
            norm = nn.utils.clip_grad_norm_(self._parameters, limit)
            self._adamw.step()
            self.average.update()
        else:
            scaler.unscale_(self._adamw)
            norm = nn.utils.clip_grad_norm_(self._parameters, limit)
            scaler.step(self._adamw)
            before = scaler.get_scale()
            scaler.update()
            if scaler.get_scale() >= before:
                self.average.update()
        self._adamw.zero_grad()
        return norm

    def tensors(self) -> dict[str, Any]:
        """Return what `save` stores: state dicts of the bare modules and of their average, the optimizer's state."""
        return {
            "networks": {name: module.state_dict() for name, module in self.plain.parts().items()},
            "ema": {name: module.state_dict() for name, module in self.average.module.parts().items()},
            "optimizer": optimizer_tensors(self._adamw, self._names),
        }

    def counters(self) -> dict[str, Any]:
        """Return what a resumed run needs besides tensors."""
        scaler = self.accelerator.scaler
        return {"ema_updates": self.average.updates, "scaler": scaler.state_dict() if scaler is not None else {}}

    def load(self, checkpoint: Checkpoint) -> None:
        """Take over the state of a checkpoint. Raises CheckpointError, before anything changes, if it does not fit."""
        raw, average = checkpoint.load_networks("raw"), checkpoint.load_networks("ema")
        load_parts(self.plain.parts(), raw, checkpoint)
        load_parts(self.average.module.parts(), average, checkpoint)
        load_optimizer(self._adamw, self._names, checkpoint)
        self.average.updates = int(checkpoint.counters["ema_updates"])
        if self.accelerator.scaler is not None and checkpoint.counters["scaler"]:
            self.accelerator.scaler.load_state_dict(checkpoint.counters["scaler"])


def _by_name(network: nn.Module | Mapping[str, nn.Module], objective: Objective) -> dict[str, nn.Module]:
    wanted = sorted(objective.networks)
    if isinstance(network, nn.Module):
        if len(wanted) != 1:
            raise UsageError(f"the objective trains several networks ({', '.join(wanted)}), and one was given")
        return {wanted[0]: network}
    if sorted(network) != wanted:
        raise UsageError(f"the objective trains {', '.join(wanted)}, not {', '.join(sorted(network))}")
    return dict(network)


def _rows_of(batch: Batch, rows: slice) -> Batch:
    source = None if batch.source is None else batch.source[rows]
    index = None if batch.index is None else batch.index[rows]
    return attrs.evolve(batch, x=batch.x[rows], condition=batch.condition[rows], index=index, source=source)


def _adamw(parameters: Sequence[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    # Fused: one kernel for all parameters. A loop over them would cost more than a small network's forward pass.
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=parameters[0].device.type in ("cpu", "cuda"),
    )
