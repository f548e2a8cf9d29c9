"""The sampler `flow-map`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal, get_args

import attrs
import torch
from attrs.validators import in_
from torch import Tensor

from atlas_core.contracts import FlowMap, NoiseSource, Step

Between = Literal["jump", "renoise"]


@attrs.frozen
class FlowMapSampler:
    """Take a few steps as large as the grid has them, each by one call of a network that was trained as a flow map.

    `jump`: x_t = keep · x_s + pull · x̂₀(x_s, s → t), the end of the ODE itself where the map is exact, however long the
    step (Geng et al. 2025, algorithm 2; Frans et al. 2025, algorithm 2). `renoise`: every step jumps to the data and
    adds fresh noise up to the next time (Song et al. 2023, algorithm 1): what networks need that were trained with
    target = consistency, and what makes up for an earlier error. One step is the same with both. The uniform grid suits
    it: `sampling.grid.use=uniform`.
    """

    paper = "Geng et al. 2025; Frans et al. 2025; Song et al. 2023, algorithm 1"

    between: Between = attrs.field(
        default="jump",
        validator=in_(get_args(Between)),
        metadata={"help": "From a step to the next: jump there, or jump to the data and renoise."},
    )

    @property
    def accepts(self) -> frozenset[str]:
        """Flow maps; with renoise, those that know the way to the data alone, too."""
        return frozenset({"flow-map", "endpoint"} if self.stochastic else {"flow-map"})

    @property
    def stochastic(self) -> bool:
        """Whether fresh noise is added between steps."""
        return self.between == "renoise"

    def nfe(self, steps: int) -> int:
        """One call a step."""
        return steps

    def steps(self, denoiser: FlowMap, x: Tensor, times: Tensor, *, noise: NoiseSource | None = None) -> Iterator[Step]:
        """Take x (b, *item) along times (n + 1,). Raises ValueError to renoise without a noise source."""
        if self.stochastic and noise is None:
            raise ValueError("flow-map renoises: pass noise=…, a NoiseSource with one row a sample")
        process, data = denoiser.process, torch.zeros((), dtype=torch.float64)
        keep, pull = (c.tolist() for c in process.ode_step(times[:-1], times[1:]))
        for index, (s, t) in enumerate(pairwise(times)):
            if noise is None or not self.stochastic:
                x0 = denoiser(x, s, t_end=t)
                x = keep[index] * x + pull[index] * x0
            else:
                x0 = denoiser(x, s, t_end=data)
                # The last step ends at the data: nothing is added there, and nothing drawn.
                x = x0 if t == 0 else process.mix(x0, noise.normal("renoise", index, x), t)
            yield Step(index, float(t), x, x0)
