"""A denoiser that respects what is already known of the sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from atlas_core.contracts import Denoiser, Process


class Known(Protocol):
    """Linear knowledge A x₀ = y, one row a sample."""

    def project(self, x0: Tensor) -> Tensor:
        """Return x₀ + A⁺(y − A x₀): the closest sample that agrees."""
        ...

    def take(self, index: Tensor) -> Known:
        """Return the rows `index`, which may repeat."""
        ...


class KnowingDenoiser:
    """Predict as the denoiser does, but for what is known: x̂₀ ← x̂₀ + A⁺(y − A x̂₀) (Wang et al. 2023, eq. 12).

    A sampler's step is linear in x and x̂₀ with the coefficients of the process, so that what is known follows
    α y + σ z exactly: no state has to be overwritten, and every sampler stays what it is.
    """

    process: Process

    def __init__(self, denoiser: Denoiser, known: Known) -> None:
        self.process = denoiser.process
        self._denoiser = denoiser
        self._known = known

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x (b, *item), t 0-d or (b,) -> (b, *item)."""
        return self._known.project(self._denoiser(x, t))

    def take(self, index: Tensor) -> KnowingDenoiser:
        """Return the denoiser of the rows `index`, with what is known of them."""
        return KnowingDenoiser(self._denoiser.take(index), self._known.take(index))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)
