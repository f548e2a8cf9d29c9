"""Where the times of training lie, and how they are drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_core.contracts import Parametrization, Process


def time_range(process: Process, parametrization: Parametrization) -> tuple[float, float]:
    """Return the first and the last time at which both are finite: `eps` ends before a process with α(1) = 0 does."""
    latest = getattr(parametrization, "t_max", None)
    return process.t_min, process.t_max if latest is None else min(process.t_max, latest(process))


def logit_normal(u: Tensor, first: float, last: float, mean: float, std: float) -> Tensor:
    """Turn u (b,), uniform in [0, 1), into times with ln(t / (1 − t)) ~ N(mean, std²), cut at `first` and `last`."""
    ends = torch.logit(torch.tensor([first, last], dtype=torch.float64))
    low, high = torch.special.ndtr((ends - mean) / std)
    return torch.sigmoid(mean + std * torch.special.ndtri(low + u * (high - low))).clamp(first, last)
