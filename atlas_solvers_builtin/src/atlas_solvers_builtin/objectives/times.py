"""Where the times of training lie, and how they are drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from atlas_core.contracts import Parametrization, Process


def time_range(process: Process, parametrization: Parametrization) -> tuple[float, float]:
    """Return the first and the last time at which both are finite: `eps` ends before a process with α(1) = 0 does."""
    latest = getattr(parametrization, "t_max", None)
    return process.t_min, process.t_max if latest is None else min(process.t_max, latest(process))


def uniform(u: Tensor, first: float, last: float) -> Tensor:
    """Turn u (b,), uniform in [0, 1), into times uniform between `first` and `last`."""
    return first + u * (last - first)


def logit_normal(u: Tensor, first: float, last: float, mean: float, std: float) -> Tensor:
    """Turn u (b,), uniform in [0, 1), into times with ln(t / (1 − t)) ~ N(mean, std²), cut at `first` and `last`."""
    low, high = torch.logit(torch.tensor([first, last], dtype=torch.float64))
    return torch.sigmoid(_cut_normal(u, low, high, mean, std)).clamp(first, last)


def log_normal(u: Tensor, first: float, last: float, mean: float, std: float, process: Process) -> Tensor:
    """Turn u (b,), uniform in [0, 1), into times with ln(σ/α) ~ N(mean, std²), cut at `first` and `last`."""
    low, high = -process.log_snr(torch.tensor([first, last], dtype=torch.float64)) / 2
    return process.time_of_log_snr(-2 * _cut_normal(u, low, high, mean, std)).clamp(first, last)


def _cut_normal(u: Tensor, low: Tensor, high: Tensor, mean: float, std: float) -> Tensor:
    """Turn u into N(mean, std²) between `low` and `high`, by the inverse of its distribution."""
    least, most = (torch.special.ndtr((end - mean) / std) for end in (low, high))
    level: Tensor = mean + std * torch.special.ndtri(least + u * (most - least))
    return level
