"""The kind `process`: the interpolant between data and noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class Process(Protocol):
    """x_t = α(t) x₀ + σ(t) z with z ~ N(0, I). **t = 0 is data, t = 1 is noise, always.**

    Times and coefficients are float64 tensors on the CPU, 0-d or (b,): coefficients are computed there, then cast.
    They are finite on [t_min, t_max].
    """

    @property
    def t_min(self) -> float:
        """The earliest time that training draws and that samplers stop at before the last step to 0."""
        ...

    @property
    def t_max(self) -> float:
        """The latest time that samplers start at."""
        ...

    def alpha(self, t: Tensor) -> Tensor: ...

    def sigma(self, t: Tensor) -> Tensor: ...

    def alpha_dot(self, t: Tensor) -> Tensor:
        """dα/dt."""
        ...

    def sigma_dot(self, t: Tensor) -> Tensor:
        """dσ/dt."""
        ...

    def log_snr(self, t: Tensor) -> Tensor:
        """ln(α² / σ²), decreasing; λ of the DPM-Solver papers is half of it. Infinite where α or σ is 0."""
        ...

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`."""
        ...

    def mix(self, x0: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """α x₀ + σ z: (b, *item), (b, *item), 0-d or (b,) -> (b, *item), in the dtype of x0."""
        ...

    def ode_step(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """keep, pull of the exact step s → t of the probability-flow ODE for frozen x̂₀: x_t = keep x_s + pull x̂₀."""
        ...

    def posterior(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """keep, pull, std of p(x_t | x_s, x₀ = x̂₀), t < s (Ho et al. 2020, eq. 6–7, for any α and σ)."""
        ...

    def prior(self, unit: Tensor, t: float = 1.0) -> Tensor:
        """Turn N(0, I) into the state that sampling starts from at time t."""
        ...


def starting_at(process: Process, t_max: float) -> Process:
    """Return the process as it is, but for an earlier `t_max`: what a grid is asked for that starts with less noise."""
    if t_max == process.t_max:
        return process
    return cast("Process", _StartingAt(process, t_max))  # by delegation, which a type checker cannot see


class _StartingAt:
    def __init__(self, process: Process, t_max: float) -> None:
        self._process = process
        self.t_max = t_max

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)
