"""The sampler `heun`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import attrs
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource, Step
from atlas_solvers_builtin.samplers.single_step import REACH_OF_DATA, integrate, pair_plan, pairs_field, reach_field


@attrs.frozen
class Heun:
    """Take an Euler step, look where it led, and average: order 2, two calls.

    A step is a pair of the grid's, s → m → t, for one call each. What is averaged is the data predicted at its ends,

        x_t = keep · x_s + pull · (x̂₀(x_s, s) + x̂₀(x̂_t, t))/2,   x̂_t = keep · x_s + pull · x̂₀(x_s, s),

    and as a step gets longer the second look moves from t to m, until there are two steps of Euler's (`reach`).

    With pairs = false each of the grid's steps is one of Karras et al., for two calls each and one in the last: D and
    the noise z = (x − αD)/σ are averaged at either end, x_t = x_s + Δα · mean(D) + Δσ · mean(z), which is

        x_t = x̂_t + pull / (2 keep) · (D(x̂_t, t) − D_s),

    their alg. 1 on EDM, and Heun in t on rectified flow; it stays finite where α_s = 0. A step to σ_t = 0 keeps x̂_t,
    as theirs does: keep is 0 there. It is harmed by long steps, which pull / keep amplifies.
    """

    paper = "Karras et al. 2022, alg. 1; in data prediction: Hochbruck & Ostermann 2010, sec. 2.3"
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
        if not self.pairs:
            return _of_each_step(denoiser, x, times)
        plan = pair_plan(denoiser.process, times, _mean_of_the_ends, self.reach, at_end=True)
        return integrate(denoiser, x, times, plan)


def _mean_of_the_ends(to_second: float, whole: float) -> float:
    return 0.5


def _of_each_step(denoiser: Denoiser, x: Tensor, times: Tensor) -> Iterator[Step]:
    keep, pull = (c.tolist() for c in denoiser.process.ode_step(times[:-1], times[1:]))
    correct = [p / (2 * k) if k > 0 else 0.0 for k, p in zip(keep, pull, strict=True)]
    for index, (s, t) in enumerate(pairwise(times)):
        x0 = denoiser(x, s)
        x = keep[index] * x + pull[index] * x0
        if correct[index]:
            x = x + correct[index] * (denoiser(x, t) - x0)
        yield Step(index, float(t), x, x0)
