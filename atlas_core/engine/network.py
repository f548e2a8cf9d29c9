"""One trained net with what its output means: the object that objectives train and that denoisers call."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from atlas_core.contracts import Condition, Conditioner, Parametrization, Process


Coefficients = tuple[float | Tensor, float | Tensor, float | Tensor, float | Tensor]
"""c_in, c_skip, c_out, c_noise."""


class Network(nn.Module):
    """Speak of clean data, whatever the model was trained to say: x̂₀ = c_skip · x + c_out · F(c_in · x, c_noise).

    Coefficients are computed from t in float64 on the CPU and cast last, so that no noise level is rounded before it
    is used. The model runs in its own dtype and on its own device; results have the dtype and device of x. Its
    parameters are the model's and, where the conditioner is an `nn.Module`, the conditioner's.
    """

    conditioner: Conditioner | None
    model: nn.Module

    def __init__(
        self,
        process: Process,
        parametrization: Parametrization,
        model: nn.Module,
        conditioner: Conditioner | None = None,
    ) -> None:
        super().__init__()
        self.process = process
        self.parametrization = parametrization
        self.model = model
        self.conditioner = conditioner
        self._table: dict[float, Coefficients] = {}
        # Where the model lives and what it computes in. To look for it anew would cost more than the rest of a call.
        self._first = tuple(islice(model.parameters(), 1))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Network:
        # `to` and its kin may put new parameters in place of the old ones.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._first = tuple(islice(self.model.parameters(), 1))
        return self

    def tabulate(self, times: Tensor) -> None:
        """Compute the coefficients of times (n,) float64 at once, so that calls with one of them need not."""
        columns = (c.tolist() for c in self.parametrization.coefficients(self.process, times))
        self._table = dict(zip(times.tolist(), zip(*columns, strict=True), strict=True))

    def settle(self, condition: Condition) -> Condition:
        """Return the condition on the device and in the dtype of the model."""
        if not self._first:
            return condition
        return condition.to(device=self._first[0].device, dtype=self._first[0].dtype)

    def forward(
        self, x: Tensor, t: Tensor, condition: Condition | None = None, *, t_end: Tensor | None = None
    ) -> Tensor:
        """`x0`, for wrappers that only know `forward`."""
        return self.x0(x, t, condition, t_end=t_end)

    def raw(self, x: Tensor, t: Tensor, condition: Condition | None = None, *, t_end: Tensor | None = None) -> Tensor:
        """F itself: x (b, *item), t 0-d or (b,) float64 on the CPU -> (b, *item)."""
        c_in, _, _, c_noise = self._coefficients(t)
        return self._call(x, c_in, c_noise, condition, t_end)

    def x0(self, x: Tensor, t: Tensor, condition: Condition | None = None, *, t_end: Tensor | None = None) -> Tensor:
        """x̂₀ (b, *item): x (b, *item), t 0-d or (b,) float64 on the CPU."""
        c_in, c_skip, c_out, c_noise = self._coefficients(t)
        output = self._call(x, c_in, c_noise, condition, t_end)
        return cast_like(c_skip, x) * x + cast_like(c_out, x) * output

    def _coefficients(self, t: Tensor) -> Coefficients:
        if t.ndim == 0 and (known := self._table.get(float(t))) is not None:
            return known
        return self.parametrization.coefficients(self.process, t)

    def _call(
        self,
        x: Tensor,
        c_in: float | Tensor,
        c_noise: float | Tensor,
        condition: Condition | None,
        t_end: Tensor | None,
    ) -> Tensor:
        place = self._first[0] if self._first else x
        options: dict[str, Any] = {}
        if t_end is not None:  # only then: a model that cannot jump need not know the word
            c_noise_end = self._coefficients(t_end)[3]
            options["c_noise_end"] = _per_row(c_noise_end, len(x), place)
        scaled = (cast_like(c_in, x) * x).to(device=place.device, dtype=place.dtype)
        output: Tensor = self.model(scaled, _per_row(c_noise, len(x), place), condition, **options)
        if output.shape != x.shape:
            raise ValueError(
                f"{type(self.model).__name__} returned {tuple(output.shape)} for an input of {tuple(x.shape)}"
            )
        return output.to(device=x.device, dtype=x.dtype)


def cast_like(coefficient: float | Tensor, x: Tensor) -> float | Tensor:
    """Make a float64 CPU coefficient multiply x (b, *item): 0-d becomes a plain number, (b,) a column of x's kind."""
    if isinstance(coefficient, float) or coefficient.ndim == 0:
        return float(coefficient)
    return coefficient.to(device=x.device, dtype=x.dtype).view(-1, *[1] * (x.ndim - 1))


def _per_row(c_noise: float | Tensor, rows: int, place: Tensor) -> Tensor:
    if isinstance(c_noise, float) or c_noise.ndim == 0:
        return torch.full((rows,), float(c_noise), device=place.device, dtype=place.dtype)
    return c_noise.to(device=place.device, dtype=place.dtype)
