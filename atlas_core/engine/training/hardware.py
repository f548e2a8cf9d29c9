"""Set up device, precision and ranks through Accelerate, refusing first what the machine cannot do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from atlas_core.config.sections import TrainConfig
from atlas_core.contracts import CoupledObjective, Objective
from atlas_core.errors import ConfigError, Problem

_MIXED = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}


def resolve_device(name: str) -> torch.device:
    """Return the device that `train.device` means; `auto` takes the first of CUDA, MPS, CPU. Raises ConfigError."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _refused("device", f"{name!r} is no device", "valid: auto, cpu, cuda, cuda:1, mps") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = f"{torch.cuda.device_count()} CUDA devices" if torch.cuda.is_available() else "no CUDA device"
        raise _refused("device", f"{name} is not there: torch finds {found}", "`atlas-core doctor` shows the devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise _refused("device", "mps is not there", "`atlas-core doctor` shows the devices")
    return device


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let torch compute with `count` threads (None: as many as it has) until the block ends."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_machine(config: TrainConfig) -> torch.device:
    """Return the device of a config. Raises ConfigError if it is not there, or lacks the precision."""
    device = resolve_device(config.device)
    if config.precision == "fp16" and device.type != "cuda":
        raise _refused(
            "precision", f"fp16 needs a CUDA device, and this run is on {device.type}", "use bf16 or float32"
        )
    if config.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise _refused("precision", "this GPU has no bf16", "use fp16 or float32")
    return device


def make_accelerator(config: TrainConfig) -> Any:
    """Return an `accelerate.Accelerator` for this config. Raises ConfigError for what `check_machine` refuses.

    It serves for devices, precision and ranks; its checkpoints are not used.
    """
    device = check_machine(config)
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # Accelerate keeps its settings per process and refuses a second training with another precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    with _chosen(device):
        return Accelerator(mixed_precision=_MIXED[config.precision], cpu=device.type == "cpu")


def check_batch(config: TrainConfig, objective: Objective, ranks: int) -> None:
    """Raise ConfigError unless every rank and micro-batch has a sample, and a coupling sees the whole batch.

    The engine brings it together for a `CoupledObjective`; one that couples in its `loss` sees a part alone.
    """
    parts = ranks * config.accumulate
    if config.batch < parts:
        split = f"{ranks} ranks × {config.accumulate} micro-batches"
        raise _refused("batch", f"{config.batch} samples cannot be shared by {split}", f"use at least {parts}")
    if objective.couples_batch and parts > 1 and not isinstance(objective, CoupledObjective):
        raise _refused(
            "accumulate",
            "the objective couples the samples of a batch, which must stay whole",
            "use 1, and one process; or give the objective `source` and `pairs`",
        )


@contextlib.contextmanager
def _chosen(device: torch.device) -> Iterator[None]:
    # The one way to tell Accelerate which of several devices; under torchrun each rank has its own anyway.
    name, before = "ACCELERATE_TORCH_DEVICE", os.environ.get("ACCELERATE_TORCH_DEVICE")
    if device.type == "cpu" or (device.type == "cuda" and device.index is None):
        yield
        return
    os.environ[name] = str(device)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _refused(setting: str, message: str, hint: str) -> ConfigError:
    return ConfigError(
        "this machine cannot train as the config says",
        problems=[Problem(message, where=f"$.train.{setting}", hint=hint)],
    )
