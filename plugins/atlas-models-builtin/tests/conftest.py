"""Networks in which every layer matters: what the tests compare would be zero in a new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import nn

Net = TypeVar("Net", bound=nn.Module)


@pytest.fixture
def awake() -> Callable[[Net], Net]:
    """Fill the layers that start at zero, and all biases, with small random numbers."""

    def fill(net: Net) -> Net:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in net.parameters():
                if parameter.ndim == 1 or not parameter.any():
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return net

    return fill


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
