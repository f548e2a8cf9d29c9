"""The sampler `dpmpp-2s`."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource, Step
from atlas_solvers_builtin.samplers.single_step import REACH_OF_DATA, pairs_field, reach_field, take


@attrs.frozen
class DPMpp2S:
    """Look again in the middle of a step, and take the data predicted there for all of it: order 2, two calls.

    With λ = ½ log-SNR, h the step, r h where m lies in it and x_m the first-order step to there,

        x_t = keep · x_s + pull · ((1 − 1/(2r)) x̂₀(x_s, s) + 1/(2r) x̂₀(x_m, m)).

    A step is a pair of the grid's, s → m → t, for one call each; a long one turns into two of Euler's (`reach`). With
    pairs = false m is the middle in λ of each of the grid's steps, for two calls each and one in the last.
    """

    paper = "Lu et al. 2022 (DPM-Solver++), alg. 1"
    accepts = frozenset({"denoiser"})
    stochastic = False

    reach: float = reach_field(REACH_OF_DATA)
    pairs: bool = pairs_field(default=True)

    def nfe(self, steps: int) -> int:
        """One call a step, in pairs; else two, and one for the last."""
        return steps if self.pairs else 2 * steps - 1

    def steps(
        self, denoiser: Denoiser, x: Tensor, times: Tensor, *, noise: NoiseSource | None = None
    ) -> Iterator[Step]:
        """Integrate x (b, *item) along times (n + 1,)."""
        return take(denoiser, x, times, _data_of_the_middle, reach=self.reach, pairs=self.pairs)


def _data_of_the_middle(to_middle: float, whole: float) -> float:
    return whole / (2 * to_middle)
