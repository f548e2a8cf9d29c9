"""What it costs that a plan's marginal differs from the weights: by relative entropy, total variation, or forbidden.

A penalty ρ D(p | a) = ρ Σ a φ(p / a) enters a scaling solver through its conjugate alone (Chizat et al. 2018; Séjourné
et al. 2019). Potentials f are in units of the cost.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import attrs
import torch
from torch import Tensor


class Penalty(Protocol):
    """One side of an unbalanced problem; f and t are (*batch, n)."""

    def prox(self, t: Tensor, epsilon: Tensor) -> Tensor:
        """The best f where the balanced problem would take t = −ε log Σ_j b_j exp((g_j − C_ij) / ε)."""
        ...

    def slope(self, t: Tensor, epsilon: Tensor) -> Tensor:
        """Derivative of `prox` by t."""
        ...

    def gain(self, f: Tensor) -> Tensor:
        """−ρ φ*(−f / ρ): what a unit of weight adds to the dual objective."""
        ...

    def wanted(self, f: Tensor, ratio: Tensor) -> Tensor:
        """The p / a nearest to `ratio` for which f is optimal: the subdifferential of `gain`."""
        ...

    def curvature(self, f: Tensor) -> Tensor:
        """−d wanted / df."""
        ...

    def price(self, ratio: Tensor) -> Tensor:
        """ρ φ(ratio); a balanced side is not charged for rounding."""
        ...

    def legal(self, f: Tensor) -> Tensor:
        """The nearest potential that a dual optimum may have."""
        ...


@attrs.frozen(eq=False)
class Balanced:
    """The marginal is the weights."""

    def prox(self, t: Tensor, epsilon: Tensor) -> Tensor:
        return t

    def slope(self, t: Tensor, epsilon: Tensor) -> Tensor:
        return torch.ones_like(t)

    def gain(self, f: Tensor) -> Tensor:
        return f

    def wanted(self, f: Tensor, ratio: Tensor) -> Tensor:
        return torch.ones_like(f)

    def curvature(self, f: Tensor) -> Tensor:
        return torch.zeros_like(f)

    def price(self, ratio: Tensor) -> Tensor:
        return torch.zeros_like(ratio)

    def legal(self, f: Tensor) -> Tensor:
        return f


@attrs.frozen(eq=False)
class RelativeEntropy:
    """ρ KL(p | a) = ρ Σ p ln(p / a) − p + a: mass fades as exp(−f / ρ)."""

    rho: Tensor
    """(), or (*batch,)."""

    def prox(self, t: Tensor, epsilon: Tensor) -> Tensor:
        return t * self.slope(t, epsilon)

    def slope(self, t: Tensor, epsilon: Tensor) -> Tensor:
        return (self.rho / (self.rho + epsilon))[..., None].expand_as(t)

    def gain(self, f: Tensor) -> Tensor:
        return -self._rho * torch.expm1(-f / self._rho)

    def wanted(self, f: Tensor, ratio: Tensor) -> Tensor:
        return (-f / self._rho).exp()

    def curvature(self, f: Tensor) -> Tensor:
        return (-f / self._rho).exp() / self._rho

    def price(self, ratio: Tensor) -> Tensor:
        return self._rho * (torch.xlogy(ratio, ratio) - ratio + 1)

    def legal(self, f: Tensor) -> Tensor:
        return f

    @property
    def _rho(self) -> Tensor:
        return self.rho[..., None]


@attrs.frozen(eq=False)
class TotalVariation:
    """ρ Σ |p − a|: a point's mass moves whole or not at all, at a cost below or above ρ."""

    rho: Tensor

    def prox(self, t: Tensor, epsilon: Tensor) -> Tensor:
        return _clipped(t, self.rho[..., None])

    def slope(self, t: Tensor, epsilon: Tensor) -> Tensor:
        return (t.abs() < self.rho[..., None]).to(t)

    def gain(self, f: Tensor) -> Tensor:
        return torch.minimum(f, self.rho[..., None])  # −∞ below −ρ, where `prox` never goes

    def wanted(self, f: Tensor, ratio: Tensor) -> Tensor:
        rho = self.rho[..., None]
        least = torch.where(f >= rho, 0.0, 1.0).to(f)
        most = torch.where(f <= -rho, torch.inf, 1.0).to(f)
        return torch.maximum(torch.minimum(ratio, most), least)

    def curvature(self, f: Tensor) -> Tensor:
        return torch.zeros_like(f)

    def price(self, ratio: Tensor) -> Tensor:
        return self.rho[..., None] * (ratio - 1).abs()

    def legal(self, f: Tensor) -> Tensor:
        return _clipped(f, self.rho[..., None])


def penalty_of(kind: Literal["kl", "tv"], rho: float | Tensor, like: Tensor) -> Penalty:
    """The penalty `kind` of weight ρ, a number or one a problem; ρ = inf forbids any difference."""
    if isinstance(rho, float | int) and math.isinf(rho):
        return Balanced()
    weight = torch.as_tensor(rho, dtype=like.dtype, device=like.device)
    return RelativeEntropy(weight) if kind == "kl" else TotalVariation(weight)


def translated(penalties: tuple[Penalty, Penalty], f: Tensor, g: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(f + λ, g − λ) at the λ, one a problem, where the dual objective is largest.

    The plan does not see λ, so sweeps find it only as slowly as ρ / ε says (Séjourné, Vialard & Peyré 2022, section 3).
    """
    first, second = penalties
    if isinstance(first, TotalVariation) or isinstance(second, TotalVariation):
        inf = torch.full_like(a[..., :1], torch.inf)
        rhos = [side.rho[..., None] if isinstance(side, TotalVariation) else inf for side in penalties]
        shift = _kinked_shift(f, g, a, b, *rhos)[..., None]
        # What rises above ρ gains nothing more, and would only make mass.
        return _clipped(f + shift, rhos[0]), _clipped(g - shift, rhos[1])
    rates = [1 / side.rho if isinstance(side, RelativeEntropy) else None for side in penalties]
    if rates[0] is None and rates[1] is None:
        return f, g
    # Where Σ a exp(−(f + λ) / ρ_a) = Σ b exp(−(g − λ) / ρ_b); eq. 12 there.
    logs = [
        (weights.log() - (0.0 if rate is None else rate[..., None] * potential)).logsumexp(-1)
        for weights, rate, potential in ((a, rates[0], f), (b, rates[1], g))
    ]
    shift = ((logs[0] - logs[1]) / sum(rate for rate in rates if rate is not None))[..., None]
    return f + shift, g - shift


def _clipped(potential: Tensor, rho: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(potential, rho), -rho)


def _kinked_shift(f: Tensor, g: Tensor, a: Tensor, b: Tensor, rho_a: Tensor, rho_b: Tensor) -> Tensor:
    """The middle λ (*batch,) of the largest points of Σ a min(f + λ, ρ_a) + Σ b min(g − λ, ρ_b).

    Its slope starts at Σ a and falls by a weight at every kink; λ keeps f + λ ≥ −ρ_a and g − λ ≥ −ρ_b. The middle,
    since at a kink sweeps only creep.
    """
    kinks, order = torch.cat([rho_a - f, g - rho_b], dim=-1).sort(dim=-1)
    passed = torch.cat([a, b], dim=-1).gather(-1, order).cumsum(-1)
    mass, rounding = a.sum(-1, keepdim=True), 1e2 * torch.finfo(a.dtype).eps
    count = kinks.shape[-1] - 1
    ends = []
    for short in (passed < (1 - rounding) * mass, passed <= (1 + rounding) * mass):
        at = kinks.gather(-1, short.sum(-1, keepdim=True).clamp(max=count))
        ends.append(torch.where(short.all(-1, keepdim=True), torch.inf, at)[..., 0])
    least = (-rho_a - torch.where(a > 0, f, torch.inf)).amax(-1)
    most = (rho_b + torch.where(b > 0, g, torch.inf)).amin(-1)
    low, high = (torch.minimum(torch.maximum(end, least), most) for end in ends)
    return (low + high) / 2
