"""Spectral laws: every builtin radial kernel is a mixture of Gaussians, and its law is drawn here.

k(x, y)^(1/ε) = k(0)^(1/ε) · E exp(−τ |x − y|²) for a random rate τ ≥ 0 (Schoenberg 1938); given τ, the frequencies of
the Gaussian are N(0, 2τ I), by Bochner's theorem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from atlas_core.contracts import Kernel


def rates_of(kernel: Kernel, count: int, dim: int, *, epsilon: float, generator: torch.Generator) -> Tensor:
    """Draw τ of k^(1/ε): (count,), or (count, dim) where each coordinate has its own, in float64 on the CPU.

    Raises ValueError, with the alternative, for a kernel that does not say its law.
    """
    quadratic, law = getattr(kernel, "quadratic", None), getattr(kernel, "gaussian_rates", None)
    if law is None and quadratic is not None:
        return torch.full((count,), quadratic / epsilon, dtype=torch.float64)
    if law is None:
        raise ValueError(
            f"{type(kernel).__name__} does not say its spectral law (see SpectralKernel), and random features need it: "
            "use `nystroem`, which takes any positive definite kernel"
        )
    rates: Tensor = law(count, dim, epsilon=epsilon, generator=generator)
    return rates


def gamma(shape: float, count: int, generator: torch.Generator) -> Tensor:
    """Draw Gamma(shape, 1): (count,), float64."""
    # torch.distributions, which calls the same function, takes no generator.
    return torch._standard_gamma(torch.full((count,), shape, dtype=torch.float64), generator=generator)


def repeated(
    draw: Callable[[], Tensor], epsilon: float, name: str, fraction: Callable[[float], Tensor] | None = None
) -> Tensor:
    """Draw τ of k^(1/ε) where `draw` gives those of k: the sum of 1/ε draws, since a power is a product of Gaussians.

    `fraction(p)` draws those of k^p, 0 < p < 1. Raises ValueError without it where 1/ε is no whole number.
    """
    times = 1 / epsilon
    whole = math.floor(times * (1 + 1e-9))  # 1 / ε is rounded
    rest = times - whole
    draws = [draw() for _ in range(whole)]
    if rest > 1e-9 * times:
        if fraction is None:
            raise ValueError(
                f"{name}: the spectral law of k^(1/ε) is known where 1/ε is a whole number, not for ε = {epsilon:.6g}: "
                "use `nystroem`, or another ε"
            )
        draws.append(fraction(rest))
    return sum_of_rates(draws)


def choose(draws: Sequence[Tensor], shares: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from a mixture of laws: entry i of one of `draws`, (count,) or (count, dim), picked with odds `shares`."""
    count = draws[0].shape[0]
    picked = torch.multinomial(shares, count, replacement=True, generator=generator)
    return torch.stack(_same_width(draws))[picked, torch.arange(count)]


def sum_of_rates(draws: Sequence[Tensor]) -> Tensor:
    """The rates of a product of kernels from those of each, (count,) or (count, dim)."""
    return torch.stack(_same_width(draws)).sum(0)


def _same_width(draws: Sequence[Tensor]) -> list[Tensor]:
    """One rate a coordinate for all, if any has that."""
    width = max((draw.shape[1] for draw in draws if draw.ndim == 2), default=0)
    return [draw[:, None].expand(-1, width) if width and draw.ndim == 1 else draw for draw in draws]
