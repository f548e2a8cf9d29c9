"""The moving average against the recursion in float64."""

from __future__ import annotations

import copy
import time

import numpy as np
import pytest
import torch
from torch import nn

from atlas_core.engine.training.ema import MovingAverage


def test_the_average_follows_its_recursion_with_the_ramp():
    """Float32 lerp over 60 updates: 1e-6 relative to values of order one."""
    generator = torch.Generator().manual_seed(0)
    module = nn.Linear(3, 2)
    ema = MovingAverage(module, decay=0.9)
    expected = module.weight.detach().numpy().astype(np.float64)
    for n in range(60):
        with torch.no_grad():
            module.weight.copy_(torch.randn(2, 3, generator=generator))
        ema.update()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * module.weight.detach().numpy().astype(np.float64)
    np.testing.assert_allclose(ema.module.weight.numpy(), expected, atol=2e-6)
    assert ema.updates == 60


def test_it_agrees_with_torch_once_the_ramp_is_over():
    """From n = 90 on the ramp is above 0.9, and torch's AveragedModel does the same arithmetic: equal bits."""
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    module = nn.Linear(4, 4)
    ema = MovingAverage(module, decay=0.9)
    ema.updates = 1000
    theirs = AveragedModel(copy.deepcopy(module), multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(module)  # its first update copies
    for _ in range(5):
        with torch.no_grad():
            module.weight.add_(torch.ones_like(module.weight))
        ema.update()
        theirs.update_parameters(module)
    assert torch.equal(ema.module.weight, theirs.module.weight)


def test_buffers_are_copied_and_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 2, bias=False)
            self.second = nn.Linear(2, 2, bias=False)
            self.second.weight = self.first.weight
            self.register_buffer("seen", torch.zeros(3))

    module = Tied()
    ema = MovingAverage(module, 0.5)
    module.seen = module.seen + 4  # another tensor, as many layers do
    ema.update()
    assert torch.equal(ema.module.seen, module.seen)
    assert ema.module.first.weight is ema.module.second.weight
    assert ema.module.first.weight is not module.first.weight
    assert not ema.module.training
    assert not any(p.requires_grad for p in ema.module.parameters())


def test_a_decay_of_zero_is_no_average():
    module = nn.Linear(2, 2)
    ema = MovingAverage(module, 0.0)
    with torch.no_grad():
        module.weight.fill_(3.0)
    ema.update()
    assert ema.module.weight.flatten().tolist() == pytest.approx([3.0] * 4)


def test_it_takes_less_than_two_percent_of_a_step():
    """27 convolutions on 8×8 images, batch 64; the fastest of several rounds, since others use the machine."""
    layers = [nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.GroupNorm(8, 32), nn.SiLU()) for _ in range(27)]
    module = nn.Sequential(*layers)
    ema, optimizer = MovingAverage(module, 0.999), torch.optim.AdamW(module.parameters(), fused=True)
    x, steps, averages = torch.randn(64, 32, 8, 8), [], []
    for _ in range(8):
        began = time.perf_counter()
        module(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        stepped = time.perf_counter()
        ema.update()
        steps.append(stepped - began)
        averages.append(time.perf_counter() - stepped)
    assert min(averages) < 0.02 * min(steps)
