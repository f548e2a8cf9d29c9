"""Drawing with a pipeline: its network, sampler and guidance, on its device, with its hooks told of every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from atlas_core.engine import sampling
from atlas_core.engine.training.hardware import cpu_threads

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.contracts import Step
    from atlas_core.engine.task import Task
    from atlas_core.pipeline import Pipeline


def draw(
    pipeline: Pipeline,
    times: Tensor,
    seeds: Sequence[int],
    inputs: Sequence[Any] | None,
    *,
    task: Task,
    shape: Sequence[int],
    batch: int | None = None,
    on_step: Callable[[Step, slice], None] | None = None,
) -> Tensor:
    """Draw one sample a seed along `times` -> float32 (n, *shape); finished ones are clamped to the data's range."""
    plan = pipeline.plan
    if task.earliest > 0:
        times = torch.cat([times[times > task.earliest], times.new_tensor([task.earliest])])

    def tell(step: Step, rows: slice) -> None:
        pipeline.events.sample_step(step, len(times) - 1)
        if on_step is not None:
            on_step(step, rows)

    with cpu_threads(plan.train.threads):
        x = sampling.draw(
            pipeline.network,
            plan.sampler.build(),
            times,
            seeds,
            shape,
            inputs=inputs,
            guidance=plan.sampling.guidance,
            batch=plan.sampling.batch if batch is None else batch,
            device=pipeline.device,
            on_step=tell,
            task=task,
            weak=pipeline.weak_network(),
        )
    limits = pipeline.spec.value_range
    return x if limits is None or task.earliest > 0 else x.clamp(*limits)
