"""Random Fourier features: an unbiased approximation of any kernel whose spectral law is known."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from atlas_core import component
from atlas_core.contracts import Kernel
from atlas_kernels_builtin.approximate.exact import exact_of
from atlas_kernels_builtin.approximate.features import Frequencies, centred, check_kernel, check_number, height
from atlas_kernels_builtin.approximate.low_rank import LowRankOperator
from atlas_kernels_builtin.kernels.wrapping import Wrapping


@attrs.frozen
class Rff(Wrapping):
    """Approximate a kernel by cosines of random frequencies: a product costs (n + m) · features, at any n and m.

    k(x, y)^(1/ε) = E cos ω·(x − y) over the kernel's spectral law (Bochner); a cosine and a sine for each frequency, in
    orthogonal blocks. Unbiased, with an error of about 1/√features in every entry, relative to k(0, 0): good for
    products at low accuracy (1e-1 to 1e-2), not for small entries. Entries may be negative, so scaling solvers refuse
    it: they take `positive-rff`, or an exact kernel.
    """

    has_log = False
    paper = "Rahimi & Recht 2007; Yu, Suresh, Choromanski, Holtmann-Rice & Kumar 2016"

    kernel: Kernel = component(
        "kernel", default="atlas-kernels-builtin:gaussian", help="The kernel that is approximated."
    )
    features: int = attrs.field(
        default=1024,
        validator=attrs.validators.ge(2),
        metadata={"help": "Columns of the approximation, an even number: a cosine and a sine for each frequency."},
    )
    seed: int = attrs.field(default=0, metadata={"help": "Of the random frequencies."})

    @features.validator
    def _even(self, attribute: object, value: int) -> None:
        if value % 2:
            raise ValueError(f"features must be even, a cosine and a sine for each frequency, not {value}")

    def __attrs_post_init__(self) -> None:
        check_kernel("rff", self.kernel)

    def block(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the approximation of every pair: (n, d), (m, d) -> (n, m)."""
        return self.operator(x, y).dense()

    def operator(self, x: Tensor, y: Tensor, *, epsilon: float | Tensor = 1.0) -> LowRankOperator:
        """Return A Bᵀ for x (*batch, n, d), y (*batch, m, d). Raises ValueError where the spectral law is not known."""
        exact = exact_of(self.kernel, x, y, epsilon)
        factors = [self._features(*problem) for problem in exact.problems()]
        return LowRankOperator.of(exact, factors, logarithmic=False, name="rff")

    def _features(self, x: Tensor, y: Tensor, epsilon: float | Tensor) -> tuple[Tensor, Tensor]:
        """[cos, sin] of every phase: (n, features), (m, features)."""
        number, dim = check_number("rff", epsilon), x.shape[-1]
        frequencies = Frequencies.draw(self.kernel, self.features // 2, dim, epsilon=number, seed=self.seed).to(x)
        scale = (0.5 * height(self.kernel, dim, number, x)).exp() / math.sqrt(self.features // 2)
        phases = [frequencies.project(points) for points in centred(x, y)]
        left, right = (torch.cat([phase.cos(), phase.sin()], dim=-1) * scale for phase in phases)
        return left, right
