"""Batches that several tests look at."""

from __future__ import annotations

import pytest
import torch

from atlas_core.contracts import Batch, DataSpec


def points(x, labels=None, start=0):
    x = torch.as_tensor(x, dtype=torch.float32)
    return Batch(x, labels, index=torch.arange(start, start + len(x)))


@pytest.fixture
def as_batch():
    return points


@pytest.fixture
def plane():
    """Two-dimensional points without range, levels or classes."""
    return DataSpec(shape=(2,), value_range=None)


@pytest.fixture
def normal():
    def draw(n, d=2, seed=0, mean=0.0):
        return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + mean

    return draw


@pytest.fixture
def labelled():
    """Three well separated classes of 1 x 6 x 6 images, 40 of each."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    x = 0.3 * torch.randn(120, 1, 6, 6, generator=generator)
    for k in range(3):
        x[labels == k, :, 2 * k : 2 * k + 2] += 1.0
    return Batch(x, labels, index=torch.arange(120)), DataSpec(
        shape=(1, 6, 6), value_range=None, classes=("a", "b", "c")
    )
