"""How noisy a state is, said in a way that means the same for every process."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from atlas_core.errors import UsageError

if TYPE_CHECKING:
    from atlas_core.contracts import Process


def time_of_strength(process: Process, strength: float) -> float:
    """Return the time at which σ / (α + σ) = `strength`: 0 is clean, 1 is noise alone (t_max).

    On `rectified-flow` it is the time itself; another process has another clock, but the same picture at one strength.
    Raises UsageError outside (0, 1], and for so little noise that the process is finished.
    """
    if not 0 < strength <= 1:
        raise UsageError(
            f"strength={strength!r}: expected a number above 0 and at most 1",
            hint="0.3 keeps most of an image, 0.8 little, 1 nothing.",
        )
    if strength == 1:
        return float(process.t_max)
    return time_of_log_snr(process, 2 * math.log((1 - strength) / strength), f"strength={strength:g}")


def time_of_log_snr(process: Process, log_snr: float, said: str) -> float:
    """Return the time of a log-SNR, at most t_max. Raises UsageError, naming what `said` so, for one below t_min."""
    ends = process.log_snr(torch.tensor([process.t_min, process.t_max], dtype=torch.float64)).tolist()
    if log_snr >= ends[0]:
        raise UsageError(f"{said} leaves less noise than this process ends with: there is nothing to do")
    if log_snr <= ends[1]:
        return float(process.t_max)
    return float(process.time_of_log_snr(torch.tensor(log_snr, dtype=torch.float64)))
