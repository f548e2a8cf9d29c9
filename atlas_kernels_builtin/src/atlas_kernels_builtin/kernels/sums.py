"""Sums of kernels, and one kernel at several scales: near and far points both count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import attrs
import torch
from torch import Tensor

from atlas_core import component
from atlas_core.contracts import Kernel, RadialKernel
from atlas_kernels_builtin.approximate.spectral import choose, rates_of, repeated
from atlas_kernels_builtin.kernels.parts import block_of, check_parts, fit
from atlas_kernels_builtin.kernels.wrapping import Wrapping


@attrs.frozen
class Sum:
    """Let any one of several kernels call two points close: k = Σ w_i k_i.

    Its transport cost −log k is a soft minimum of theirs. Positive definite if the kernels are and no weight is
    negative; a negative weight, or a signed kernel, makes it signed.
    """

    paper = "Rasmussen & Williams 2006, section 4.2.4"

    kernels: Sequence[Kernel] = component("kernel", many=True, help="The terms.")
    weights: tuple[float, ...] | None = attrs.field(
        default=None,
        metadata={"help": "One weight a term, not 0; unset: all 1."},
        kw_only=True,
    )

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "kernels", tuple(self.kernels))  # a config gives a list
        check_parts("sum", self.kernels)
        _check_weights("sum", self.weights, len(self.kernels))

    @property
    def has_log(self) -> bool:
        return all(kernel.has_log for kernel in self.kernels) and all(weight > 0 for weight in self._weights)

    @property
    def item_ndim(self) -> int:
        return self.kernels[0].item_ndim

    @property
    def log_radial(self) -> Callable[[Tensor], Tensor]:
        """log k of squared distances (see `RadialKernel`); AttributeError if signed, or unless every term has it."""
        if not self.has_log:
            raise AttributeError("a signed sum has no logarithm: no log_radial")
        parts = [cast(RadialKernel, kernel).log_radial for kernel in self.kernels]
        return lambda squared: _log_sum([part(squared.clone()) for part in parts], self._weights)

    def fitted(self, x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Sum:
        """Return the sum of the fitted terms (see `Kernel`)."""
        return attrs.evolve(self, kernels=tuple(fit(kernel, x, y, a, b) for kernel in self.kernels))

    def log_kernel(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log k of every pair: (n, *item), (m, *item) -> (n, m). Raises ValueError for a signed sum."""
        if not self.has_log:
            raise ValueError(
                "this sum is a signed kernel, which has no logarithm: its weights and terms must be positive"
            )
        return _log_sum([kernel.log_kernel(x, y) for kernel in self.kernels], self._weights)

    def block(self, x: Tensor, y: Tensor) -> Tensor:
        """Return k of every pair: (n, *item), (m, *item) -> (n, m)."""
        terms = zip(self._weights, self.kernels, strict=True)
        return torch.stack([weight * block_of(kernel, x, y) for weight, kernel in terms]).sum(0)

    def gaussian_rates(self, count: int, dim: int, *, epsilon: float, generator: torch.Generator) -> Tensor:
        """Draw the rates of its Gaussians (see `SpectralKernel`): of each term as often as its height w_i k_i(0) says.

        Known where 1/ε is a whole number; elsewhere, and for signed sums, ValueError.
        """
        if not self.has_log:
            raise ValueError('sum: a signed sum is no mixture of Gaussians: use `nystroem` with method = "k-means++"')
        origin = torch.zeros(1, dim, dtype=torch.float64)
        heights = [float(kernel.log_kernel(origin, origin).exp()) for kernel in self.kernels]
        shares = torch.tensor([w * h for w, h in zip(self._weights, heights, strict=True)], dtype=torch.float64)

        def draw() -> Tensor:
            draws = [rates_of(kernel, count, dim, epsilon=1.0, generator=generator) for kernel in self.kernels]
            return choose(draws, shares, generator)

        return repeated(draw, epsilon, "sum")

    @property
    def _weights(self) -> tuple[float, ...]:
        return self.weights if self.weights is not None else (1.0,) * len(self.kernels)


@attrs.frozen
class Mixture(Wrapping):
    """See all scales at once: the mean of one kernel at several bandwidths, for data whose scale is unknown.

    k(x, y) = Σ_s w_s k₀(x / s, y / s) over the scales s, Σ w = 1: with `gaussian`, the kernel that most MMDs use.
    """

    paper = "Gretton, Sriperumbudur, Sejdinovic, Strathmann, Balakrishnan, Pontil & Fukumizu 2012"

    kernel: Kernel = component("kernel", default="atlas-kernels-builtin:gaussian", help="The kernel k₀.")
    scales: tuple[float, ...] = attrs.field(
        default=(0.25, 0.5, 1.0, 2.0, 4.0),
        validator=[attrs.validators.min_len(1), attrs.validators.deep_iterable(attrs.validators.gt(0))],
        metadata={"help": "Factors of the kernel's own bandwidth."},
    )
    weights: tuple[float, ...] | None = attrs.field(
        default=None, metadata={"help": "One positive weight a scale, divided by their sum; unset: all the same."}
    )

    def __attrs_post_init__(self) -> None:
        _check_weights("mixture", self.weights, len(self.scales), positive=True)

    @property
    def log_radial(self) -> Callable[[Tensor], Tensor]:
        """log k of squared distances (see `RadialKernel`); AttributeError unless k₀ has it."""
        part = cast(RadialKernel, self.kernel).log_radial
        return lambda squared: _log_sum([part(squared / scale**2) for scale in self.scales], self._weights)

    def log_kernel(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log k of every pair: (n, *item), (m, *item) -> (n, m)."""
        return _log_sum([self.kernel.log_kernel(x / scale, y / scale) for scale in self.scales], self._weights)

    def block(self, x: Tensor, y: Tensor) -> Tensor:
        """Return k of every pair: (n, *item), (m, *item) -> (n, m)."""
        terms = zip(self._weights, self.scales, strict=True)
        return torch.stack([weight * block_of(self.kernel, x / scale, y / scale) for weight, scale in terms]).sum(0)

    def gaussian_rates(self, count: int, dim: int, *, epsilon: float, generator: torch.Generator) -> Tensor:
        """Draw the rates of its Gaussians (see `SpectralKernel`). ValueError unless 1/ε is a whole number."""

        def draw() -> Tensor:
            rates = [rates_of(self.kernel, count, dim, epsilon=1.0, generator=generator) for _ in self.scales]
            draws = [rate / scale**2 for rate, scale in zip(rates, self.scales, strict=True)]
            return choose(draws, torch.tensor(self._weights, dtype=torch.float64), generator)

        return repeated(draw, epsilon, "mixture")

    @property
    def _weights(self) -> tuple[float, ...]:
        weights = self.weights if self.weights is not None else (1.0,) * len(self.scales)
        return tuple(weight / sum(weights) for weight in weights)


def _log_sum(logs: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """log Σ w_i exp(logs_i)."""
    return torch.stack([log + math.log(weight) for log, weight in zip(logs, weights, strict=True)]).logsumexp(0)


def _check_weights(name: str, weights: Sequence[float] | None, count: int, *, positive: bool = False) -> None:
    if weights is None:
        return
    if len(weights) != count:
        raise ValueError(f"{name}: weights must hold {count} numbers, one for each, not {len(weights)}")
    for index, weight in enumerate(weights):
        if not math.isfinite(weight) or weight == 0 or (positive and weight < 0):
            raise ValueError(
                f"{name}: weights[{index}] is {weight}: it must be {'positive' if positive else 'finite, not 0'}"
            )
