"""The sampler `dpm-2`."""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource, Step
from atlas_solvers_builtin.samplers.single_step import pairs_field, reach_field, take


@attrs.frozen
class DPM2:
    """Look again in the middle of a step, and take the noise found there for all of it: order 2, two calls.

    With λ = ½ log-SNR, h the step, r h where m lies in it, x_m the first-order step to there and ε̂ = (x − α x̂₀)/σ,

        x_t = (α_t/α_s) x_s − σ_t (e^h − 1) (ε̂(x_s, s) + (ε̂(x_m, m) − ε̂(x_s, s))/(2r))
            = keep · x_s + pull · ((1 − c) x̂₀(x_s, s) + c x̂₀(x_m, m)),   c = e^(r h)/(2r).

    A step is a pair of the grid's, s → m → t, for one call each; a long one turns into two of Euler's (`reach`). With
    pairs = false m is the middle in λ of each of the grid's steps, for two calls each and one in the last.
    """

    paper = "Lu et al. 2022 (DPM-Solver), alg. 4"
    accepts = frozenset({"denoiser"})
    stochastic = False

    reach: float = reach_field()
    pairs: bool = pairs_field(default=True)

    def nfe(self, steps: int) -> int:
        """One call a step, in pairs; else two, and one for the last."""
        return steps if self.pairs else 2 * steps - 1

    def steps(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, noise: NoiseSource | None = None
    ) -> Iterator[Step]:
        """Integrate x (b, *item) along times (n + 1,)."""
        return take(denoiser, x, times, _noise_of_the_middle, reach=self.reach, pairs=self.pairs)


def _noise_of_the_middle(to_middle: float, whole: float) -> float:
    return math.exp(to_middle) * whole / (2 * to_middle)
