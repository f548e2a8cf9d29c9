"""What samplers integrate: a denoiser, or the dynamics of a bridge that a denoiser does not determine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.contracts.process import Process


@runtime_checkable
class Denoiser(Protocol):
    """(x_t, t) → x̂₀ = E[x₀ | x_t]: model, parametrization, condition and guidance bound together.

    One method is optional: `prepare(times)`, called before a loop with the (n,) times it will predict at, so that their
    coefficients are computed once. That of a trained flow map takes `t_end=…` in a call: `FlowMap`.
    """

    process: Process

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict the clean data: x (b, *item), t 0-d or (b,) float64 on the CPU -> (b, *item)."""
        ...

    def take(self, index: Tensor) -> Denoiser:
        """Return the denoiser of the rows `index` (r,), which may repeat: tiles, chunks, error control per sample."""
        ...


@runtime_checkable
class FlowMap(Denoiser, Protocol):
    """A denoiser that also knows where a whole step leads: what samplers that accept {"flow-map"} call.

    With keep and pull of `process.ode_step(t, t_end)`, x_t_end = keep · x + pull · x̂₀(x, t, t_end) is the end of the
    probability-flow ODE itself, not of one Euler step: x̂₀ is what the step sees of the data on average.
    """

    def __call__(self, x: Tensor, t: Tensor, *, t_end: Tensor | None = None) -> Tensor:
        """Predict the mean clean data of the step t → t_end ≤ t, of the shapes of t; without it, that at t."""
        ...


@runtime_checkable
class Dynamics(Protocol):
    """A trained bridge; t runs 1 → 0."""

    process: Process

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """dx/dt of the marginal flow, in Atlas time."""
        ...

    def score(self, x: Tensor, t: Tensor) -> Tensor | None:
        """∇ log p_t(x); None: the bridge can only be followed as an ODE."""
        ...

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Drift of the sampled SDE in +t: velocity − ½ diffusion² · score; samplers multiply it by dt < 0."""
        ...

    def diffusion(self, t: Tensor) -> float:
        """Diffusion coefficient of the sampled SDE, one number a time."""
        ...
