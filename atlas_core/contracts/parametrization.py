"""The kind `parametrization`: what the network's output means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.contracts.process import Process


@runtime_checkable
class Parametrization(Protocol):
    """x̂₀ = c_skip · x + c_out · F(c_in · x, c_noise) covers eps, x0, v, velocity and EDM alike.

    One method is optional: `t_max(process) -> float` is the latest time at which the coefficients are finite (eps
    divides by α); without it, process.t_max. Samplers start at the smaller of the two.
    """

    def coefficients(self, process: Process, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return c_in, c_skip, c_out, c_noise at t, 0-d or (b,) float64; each of the shape of t, all finite.

        At σ = 0 they give x̂₀ = x / α. Raises ValueError for a process that this parametrization is not defined on.
        """
        ...
