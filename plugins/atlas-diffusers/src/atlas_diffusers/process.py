"""The process `diffusers`: variance preserving, known at whole time steps and interpolated between them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import attrs
import torch
from atlas_solvers_builtin.processes.gaussian import GaussianProcess
from attrs.validators import and_, gt, in_, lt
from torch import Tensor

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


@attrs.frozen
class DiscreteVP(GaussianProcess):
    """Noise as the schedulers of diffusers add it: step i of N is t = (i + 1) / N, and t = 0 is the data.

    log-SNR is that of ᾱ_i at whole steps and linear in i between them, as diffusers' own samplers interpolate it;
    before the first step σ/α falls linearly to 0.
    """

    paper = "Ho, Jain & Abbeel 2020, sec. 4; Nichol & Dhariwal 2021, eq. 17"
    t_max = 1.0

    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = attrs.field(
        default="linear", validator=in_(SCHEDULES), metadata={"help": "How β grows, as diffusers names it."}
    )
    beta_start: float = attrs.field(
        default=1e-4, validator=and_(gt(0), lt(1)), metadata={"help": "β of the first step."}
    )
    beta_end: float = attrs.field(default=0.02, validator=and_(gt(0), lt(1)), metadata={"help": "β of the last step."})
    steps: int = attrs.field(default=1000, validator=gt(1), metadata={"help": "Time steps of the training, N."})

    @property
    def t_min(self) -> float:
        """The first time step."""
        return 1 / self.steps

    def timestep(self, t: Tensor) -> Tensor:
        """The time step of t, fractional between whole ones, at least 0."""
        return (t * self.steps - 1).clamp(min=0)

    def alpha(self, t: Tensor) -> Tensor:
        """√ᾱ."""
        return torch.sigmoid(self.log_snr(t)).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """√(1 − ᾱ)."""
        return torch.sigmoid(-self.log_snr(t)).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        """α σ² / 2 times the derivative of log-SNR."""
        return torch.where(t > 0, self.alpha(t) * self.sigma(t).square() / 2 * self._slope(t), 0.0)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """−σ α² / 2 times the derivative of log-SNR; that of σ/α at t = 0."""
        first = torch.exp(-self._known()[0] / 2) * self.steps
        return torch.where(t > 0, -self.sigma(t) * self.alpha(t).square() / 2 * self._slope(t), first)

    def log_snr(self, t: Tensor) -> Tensor:
        """Interpolate ln(ᾱ / (1 − ᾱ))."""
        known, i = self._known(), t.double() * self.steps - 1
        low = i.floor().clamp(0, self.steps - 2).long()
        inside = known[low] + (i - low) * (known[low + 1] - known[low])
        return torch.where(i >= 0, inside, known[0] - 2 * torch.log(t.double() * self.steps))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`; the last time below the last log-SNR."""
        known = self._known()
        above = torch.searchsorted(-known, -log_snr.double()).clamp(1, self.steps - 1)
        i = above - 1 + (log_snr - known[above - 1]) / (known[above] - known[above - 1])
        before = torch.exp((known[0] - log_snr) / 2)
        return (torch.where(log_snr > known[0], before, i + 1) / self.steps).clamp(max=1.0)

    def _slope(self, t: Tensor) -> Tensor:
        known, i = self._known(), t.double() * self.steps - 1
        low = i.floor().clamp(0, self.steps - 2).long()
        return torch.where(i >= 0, (known[low + 1] - known[low]) * self.steps, -2 / t.double())

    def _known(self) -> Tensor:
        return _log_snr(self.beta_schedule, self.beta_start, self.beta_end, self.steps)


@lru_cache(maxsize=32)
def _log_snr(schedule: str, start: float, end: float, steps: int) -> Tensor:
    """(steps,) float64: ln(ᾱ / (1 − ᾱ)), decreasing."""
    if schedule == "linear":
        beta = torch.linspace(start, end, steps, dtype=torch.float64)
    elif schedule == "scaled_linear":
        beta = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).square()
    else:
        bar = torch.cos((torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008 * math.pi / 2).square()
        beta = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    kept = torch.log1p(-beta).cumsum(0)
    return kept - torch.log(-torch.expm1(kept))
