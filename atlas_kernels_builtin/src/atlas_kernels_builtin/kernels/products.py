"""Products and powers of kernels: their transport costs add up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import attrs
import torch
from torch import Tensor

from atlas_core import component
from atlas_core.contracts import Kernel, RadialKernel
from atlas_kernels_builtin.approximate.spectral import rates_of, sum_of_rates
from atlas_kernels_builtin.kernels.parts import block_of, check_parts, fit
from atlas_kernels_builtin.kernels.wrapping import Wrapping


@attrs.frozen
class Product:
    """Ask for closeness in every sense at once: k = Π k_i, whose transport cost is the sum of the costs.

    Positive definite if all factors are (Schur). A signed factor makes it signed.
    """

    paper = "Rasmussen & Williams 2006, section 4.2.4"

    kernels: Sequence[Kernel] = component("kernel", many=True, help="The factors.")

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "kernels", tuple(self.kernels))  # a config gives a list
        check_parts("product", self.kernels)

    @property
    def has_log(self) -> bool:
        return all(kernel.has_log for kernel in self.kernels)

    @property
    def item_ndim(self) -> int:
        return self.kernels[0].item_ndim

    @property
    def quadratic(self) -> float:
        """Of a product of Gaussians (see `RadialKernel`); AttributeError for others."""
        return float(sum(cast(Any, kernel).quadratic for kernel in self.kernels))

    @property
    def log_radial(self) -> Callable[[Tensor], Tensor]:
        """log k of squared distances (see `RadialKernel`); AttributeError unless every factor has it."""
        parts = [cast(RadialKernel, kernel).log_radial for kernel in self.kernels]
        return lambda squared: torch.stack([part(squared.clone()) for part in parts]).sum(0)

    def fitted(self, x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Product:
        """Return the product of the fitted factors (see `Kernel`)."""
        return attrs.evolve(self, kernels=tuple(fit(kernel, x, y, a, b) for kernel in self.kernels))

    def log_kernel(self, x: Tensor, y: Tensor) -> Tensor:
        """Return Σ log k_i of every pair: (n, *item), (m, *item) -> (n, m)."""
        return torch.stack([kernel.log_kernel(x, y) for kernel in self.kernels]).sum(0)

    def block(self, x: Tensor, y: Tensor) -> Tensor:
        """Return k of every pair: (n, *item), (m, *item) -> (n, m)."""
        if self.has_log:
            return self.log_kernel(x, y).exp()
        return torch.stack([block_of(kernel, x, y) for kernel in self.kernels]).prod(0)

    def gaussian_rates(self, count: int, dim: int, *, epsilon: float, generator: torch.Generator) -> Tensor:
        """Draw the rates of its Gaussians (see `SpectralKernel`): the sum of one of each factor."""
        draws = [rates_of(kernel, count, dim, epsilon=epsilon, generator=generator) for kernel in self.kernels]
        return sum_of_rates(draws)


@attrs.frozen
class Scaled(Wrapping):
    """Weigh a kernel, or sharpen it: k = amplitude · k₀^power, whose transport cost is power · C₀ − log amplitude.

    The power of a signed kernel is 1.
    """

    paper = "Rasmussen & Williams 2006, section 4.2.4"

    kernel: Kernel = component("kernel", help="The kernel k₀.")
    amplitude: float = attrs.field(
        default=1.0, validator=attrs.validators.gt(0), metadata={"help": "Factor of the kernel."}
    )
    power: float = attrs.field(
        default=1.0,
        validator=attrs.validators.gt(0),
        metadata={
            "help": "Exponent of the kernel, and so factor of its cost. Not every kernel stays positive definite."
        },
    )

    def __attrs_post_init__(self) -> None:
        if not self.kernel.has_log and self.power != 1:
            raise ValueError(f"scaled: {type(self.kernel).__name__} is signed, so its power is 1, not {self.power}")

    @property
    def quadratic(self) -> float:
        """Of a power of a Gaussian (see `RadialKernel`); AttributeError for others, and with an amplitude."""
        if self.amplitude != 1:
            raise AttributeError("scaled with an amplitude is no Gaussian of height 1: no `quadratic`")
        return self.power * float(cast(Any, self.kernel).quadratic)

    @property
    def log_radial(self) -> Callable[[Tensor], Tensor]:
        """log k of squared distances (see `RadialKernel`); AttributeError unless k₀ has it."""
        part = cast(RadialKernel, self.kernel).log_radial
        return lambda squared: part(squared) * self.power + math.log(self.amplitude)

    def log_kernel(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log k of every pair: (n, *item), (m, *item) -> (n, m)."""
        return self.kernel.log_kernel(x, y) * self.power + math.log(self.amplitude)

    def block(self, x: Tensor, y: Tensor) -> Tensor:
        """Return k of every pair: (n, *item), (m, *item) -> (n, m)."""
        return self.log_kernel(x, y).exp() if self.has_log else block_of(self.kernel, x, y) * self.amplitude

    def gaussian_rates(self, count: int, dim: int, *, epsilon: float, generator: torch.Generator) -> Tensor:
        """Draw the rates of its Gaussians (see `SpectralKernel`): those of k₀^(power / ε)."""
        return rates_of(self.kernel, count, dim, epsilon=epsilon / self.power, generator=generator)
