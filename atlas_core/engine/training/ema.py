"""Average the weights over training: what is sampled from is smoother than what was last stepped to."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

M = TypeVar("M", bound=nn.Module)

_WORTH_A_THREAD = 2**20
"""Numbers in a tensor from which several threads average it faster than one."""


class MovingAverage(Generic[M]):
    """A copy of a module whose parameters follow ema ← d · ema + (1 − d) · parameter, once per optimizer step.

    d = min(decay, (1 + n) / (10 + n)) after n updates, so that the first weights are soon forgotten; buffers
    are copied.
    The copy is in eval mode and shares nothing with the original, whose own sharing (tied weights) it keeps.
    """

    def __init__(self, module: M, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.module: M = copy.deepcopy(module).eval().requires_grad_(False)
        # The lists are made once: walking the module tree costs more than the arithmetic of a small network.
        self._average = list(self.module.parameters())
        self._source = [parameter.detach() for parameter in module.parameters()]
        # Buffers are looked up when they are copied: a module may put another tensor in the place of one.
        averages = dict(self.module.named_modules())
        self._buffers = [
            (source._buffers, averages[path]._buffers, name)
            for path, source in module.named_modules()
            for name in source._buffers
        ]

    def update(self) -> None:
        """Take in the weights after an optimizer step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        if self._average:
            update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            with self._threads():
                update(self._average, self._source, None)
        with torch.no_grad():
            for sources, averages, name in self._buffers:
                source, average = sources[name], averages[name]
                if source is not None and average is not None:
                    average.copy_(source)
        self.updates += 1

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """On a CPU, work on small tensors in one thread: to wake the others for each costs more than it saves."""
        before = torch.get_num_threads()
        mean_size = sum(parameter.numel() for parameter in self._average) / len(self._average)
        if before == 1 or self._average[0].device.type != "cpu" or mean_size > _WORTH_A_THREAD:
            yield
            return
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
