"""Pair both ends of a batch where the objective couples its rows: over all ranks, whatever part of it each one has."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Batch, CoupledObjective, NoiseSource, Objective
from atlas_core.engine.noise import CounterNoise


def couples(objective: Objective) -> CoupledObjective | None:
    """Return the objective if it couples rows in the engine's way: see `check_batch` for those that do without."""
    return objective if objective.couples_batch and isinstance(objective, CoupledObjective) else None


@torch.no_grad()
def paired(objective: CoupledObjective, batch: Batch, noise: NoiseSource) -> Batch:
    """Return the batch with its `source`, row by row what `objective` pairs it with; raw conditions, as in `pairs`."""
    source = objective.source(batch, noise)
    pairs = objective.pairs(attrs.evolve(batch, source=source), noise)
    return attrs.evolve(batch, source=source[pairs])


@torch.no_grad()
def paired_over_ranks(objective: CoupledObjective, batch: Batch, seed: int, accelerator: Any) -> Batch:
    """Do what `paired` does with the batches of all ranks in one, in the order of their sample index.

    The first rank alone decides: solved anew on each, on other hardware, two ranks might take one row twice.
    """
    assert batch.index is not None
    noise = CounterNoise.for_training(seed, batch.index)
    ranks = accelerator.num_processes
    if ranks == 1:
        return paired(objective, batch, noise)
    from accelerate.utils import broadcast, gather_object

    mine = len(batch.index)
    lengths = accelerator.gather(torch.tensor([mine], device=batch.x.device)).tolist()
    longest = max(lengths)

    def gather(rows: Tensor) -> Tensor:
        padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
        parts = accelerator.gather(padded).split(longest)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    source = gather(objective.source(batch, noise))
    index = gather(batch.index.to(batch.x.device))
    x, conditions = gather(batch.x), gather_object(list(batch.condition))
    pairs = torch.zeros_like(index)
    if accelerator.is_main_process:
        whole = Batch(x=x, condition=conditions, index=index.cpu(), step=batch.step, source=source)
        pairs = objective.pairs(whole, CounterNoise.for_training(seed, index)).to(index)
    pairs = broadcast(pairs)
    first = sum(lengths[: accelerator.process_index])
    return attrs.evolve(batch, source=source[pairs[first : first + mine]])
