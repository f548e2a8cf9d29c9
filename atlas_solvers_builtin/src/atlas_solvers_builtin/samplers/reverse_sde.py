"""The reverse SDE that stochastic samplers integrate, and the Brownian path that drives it."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import attrs
import torch
from attrs.validators import ge, lt
from torch import Tensor

from atlas_core.contracts import NoiseSource, Process


@attrs.frozen(eq=False)
class ReverseSteps:
    """Exact steps of the reverse SDE for frozen x̂₀: x_t = keep x_s + pull x̂₀ + std z, one number a step in each list.

    In λ = ½ log-SNR, with ς = e^−λ = σ/α and y = x/α, the SDE is dy = (1 + η²)(x̂₀ − y) dλ + √2 η ς dW: whatever η,
    its marginals are those of the process (Xue et al. 2023, eq. 5–6; η = 0 is the probability-flow ODE, η = 1 the
    reverse of the process). Over a step of h in λ

        keep = σ_t/σ_s e^(−η²h),  pull = α_t (1 − e^(−(1+η²)h)),  std = σ_t √(1 − e^(−2η²h)),

    all finite where α_s = 0 or σ_t = 0, that is where h is infinite.
    """

    keep: list[float]
    pull: list[float]
    std: list[float]
    h: list[float]
    """Step in λ; infinite out of pure noise and into data."""
    rate: list[float]
    """1 + η²: how fast y approaches x̂₀, in λ."""


def reverse_steps(process: Process, s: Tensor, t: Tensor, eta: float | Tensor) -> ReverseSteps:
    """Return the steps s -> t (n,), each with its own `eta` if that is (n,)."""
    keep, pull = process.ode_step(s, t)
    h = (process.log_snr(t) - process.log_snr(s)) / 2
    rate = torch.as_tensor(eta, dtype=torch.float64).square()
    change = torch.where(rate > 0, rate * h, 0.0)  # 0 · ∞ is no change
    # In this order η = 0 leaves the ODE's coefficients as they are, to the last bit.
    pull = pull - process.alpha(s) * keep * torch.expm1(-change)
    std = process.sigma(t) * (-torch.expm1(-2 * change)).sqrt()
    columns = keep * torch.exp(-change), pull, std, h, (1 + rate).expand_as(h)
    return ReverseSteps(*(column.tolist() for column in columns))


def extrapolation(process: Process, times: Tensor, ahead: Callable[[float], float]) -> list[float]:
    """Return r of each step along times (n + 1,), where a line x̂₀ + r (x̂₀ − x̂₀') stands for x̂₀; 0: first order.

    `ahead`: h -> how far the line is followed, in λ. It needs two predictions at finite λ, and a step that ends at one.
    """
    steps = [float(h) / 2 for h in process.log_snr(times).diff()]
    ratios = [ahead(h) / last if math.isfinite(last) and math.isfinite(h) else 0.0 for last, h in pairwise(steps)]
    return [0.0, *ratios]


def mean_place(c: float) -> float:
    """Return the mean of v on [0, 1] under e^(−c(1−v)), the weight of an exact solution: from ½ at c = 0 to 1."""
    return -1 / math.expm1(-c) - 1 / c if c > 1e-4 else 0.5 + c / 12


def eta_field() -> float:
    """Return the setting `eta` that these samplers share."""
    field: float = attrs.field(
        default=1.0,
        validator=[ge(0), lt(math.inf)],
        metadata={"help": "Strength of the noise, as a std: 0 the ODE, 1 the reverse process; more forgets faster."},
    )
    return field


class Path:
    """The noise of one sampling: increments of one Brownian path, on the clock of the SNR.

    At η = 1 the noise of a step is σ_t/√SNR_t · (W(SNR_t) − W(SNR_s)) exactly, so that however the times are cut the
    path is the same; at other η it is scaled to the variance of the step. All samplers here follow the same path.
    """

    def __init__(self, noise: NoiseSource | None, sampler: str, process: Process, times: Tensor) -> None:
        """`times`: (n + 1,), decreasing. Raises ValueError, in the name of `sampler`, if there is no noise source."""
        if noise is None:
            raise ValueError(f"{sampler} draws noise: pass noise=…, a NoiseSource with one row a sample")
        self._noise = noise
        self._clock: list[float] = torch.exp(process.log_snr(times)).tolist()  # 0 in pure noise, infinite in data

    def draw(self, like: Tensor, std: float, start: int, end: int) -> Tensor:
        """Return std · z, where z ~ N(0, I) is what the path does from times[start] to times[end]; like (b, *item)."""
        u0 = self._clock[start]
        u1 = (
            self._clock[end] if math.isfinite(self._clock[end]) else 2 * u0
        )  # only churn adds noise before the last step
        return self._noise.brownian("reverse sde", u0, u1, like) * (std / math.sqrt(u1 - u0))

    def add(self, x: Tensor, std: float, start: int) -> Tensor:
        """Return x + std · z for the step from times[start]; a step without noise may end in data."""
        return x + self.draw(x, std, start, start + 1) if std else x
