"""The probability-flow ODE in coordinates that are finite from data to pure noise, with the volume it gains."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from atlas_core.contracts import Denoiser


class Flow:
    """dw/dφ and its divergence, w = x/√(α² + σ²), φ = arctan(σ/α)."""

    def __init__(self, denoiser: Denoiser, directions: Tensor | None) -> None:
        """`directions`: (probes, b, *item), along which the trace is estimated; None: it is computed."""
        self.calls = 0
        self._denoiser = denoiser
        self._directions = directions

    def step(self, w: Tensor, begin: float, end: float) -> tuple[Tensor, Tensor]:
        """Take a Runge–Kutta step of order 4: w (b, *item) -> w at `end`, and what log p(w) has lost, (b, probes)."""
        h = end - begin
        k1, v1 = self.slope(w, begin)
        k2, v2 = self.slope(w + h / 2 * k1, begin + h / 2)
        k3, v3 = self.slope(w + h / 2 * k2, begin + h / 2)
        k4, v4 = self.slope(w + h * k3, end)
        return w + h / 6 * (k1 + 2 * (k2 + k3) + k4), h / 6 * (v1 + 2 * (v2 + v3) + v4)

    def slope(self, w: Tensor, angle: float) -> tuple[Tensor, Tensor]:
        """Return dw/dφ (b, *item) and its divergence (b, probes), float64."""
        cos, sin = math.cos(angle), math.sin(angle)
        process = self._denoiser.process
        t = process.time_of_log_snr(torch.tensor(-2 * math.log(math.tan(angle)), dtype=torch.float64)).clamp(
            max=process.t_max
        )
        scale = float(torch.hypot(process.alpha(t), process.sigma(t)))
        with torch.enable_grad():
            at = w.detach().requires_grad_()
            x0 = self._denoiser(scale * at, t)
            self.calls += 1
            if x0.requires_grad:
                trace = self._trace(x0, at)
            elif float(process.alpha(t)) == 0:  # nothing of the data is left: x̂₀ is their mean, whatever x
                trace = torch.zeros(len(w), 1, dtype=torch.float64, device=w.device)
            else:
                raise ValueError(
                    "the denoiser returns x̂₀ without a graph: log p needs its derivative with respect to x"
                )
        size = math.prod(w.shape[1:])
        return (cos * w - x0.detach()) / sin, (size * cos - trace) / sin

    def _trace(self, x0: Tensor, at: Tensor) -> Tensor:
        """Return tr ∂x̂₀/∂w, or its estimates: (b, probes)."""
        if self._directions is not None:
            found = [self._product(x0, at, v).flatten(1).sum(1) for v in self._directions]
            return torch.stack(found, 1)
        total = torch.zeros(len(at), dtype=torch.float64, device=at.device)
        axis = torch.zeros_like(at).flatten(1)
        for j in range(axis.shape[1]):
            axis[:, j] = 1
            total += self._product(x0, at, axis.view_as(at)).flatten(1).sum(1)
            axis[:, j] = 0
        return total[:, None]

    def _product(self, x0: Tensor, at: Tensor, v: Tensor) -> Tensor:
        """Return v · (vᵀ ∂x̂₀/∂w), entry by entry, in float64."""
        (gradient,) = torch.autograd.grad(x0, at, v, retain_graph=True)
        return (gradient * v).double()
