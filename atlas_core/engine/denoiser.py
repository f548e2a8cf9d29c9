"""A network with its condition and guidance bound: what samplers see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import GuidanceContext
from atlas_core.engine.network import cast_like
from atlas_core.errors import UsageError

if TYPE_CHECKING:
    from atlas_core.contracts import Condition, Guidance
    from atlas_core.engine.network import Network


@attrs.define
class Calls:
    """What a denoiser has cost so far; shared by all that were taken from it."""

    nfe: int = 0
    """Calls of the denoiser; a guided call counts one."""
    forward_passes: int = 0
    """Times that the network saw the rows of a call: two for a guided one."""


class NetworkDenoiser:
    """(x_t, t) → x̂₀ for given conditions: `atlas_core.contracts.Denoiser`.

    The prediction and its reference go through the network as one batch of twice the rows. State of a stateful
    guidance lives as long as the denoiser: make one for each sampling.
    """

    def __init__(
        self,
        network: Network,
        condition: Condition | None = None,
        guidance: Guidance | None = None,
        null: Condition | None = None,
    ) -> None:
        """`condition`: one row a sample, or None. `null`: what guidance refers to; by default the conditioner's.

        Raises UsageError if the guidance needs a reference that there is none of.
        """
        self.process = network.process
        self._network = network
        self._guidance = guidance
        null = _reference(network, condition, guidance, null)
        self._condition = None if condition is None else network.settle(condition)
        self._null = None if null is None else network.settle(null)
        self._both = None if self._condition is None or self._null is None else self._condition.cat(self._null)
        self._state: Any = None
        self._scales: dict[float, tuple[float, float]] = {}
        self._calls = Calls()

    @property
    def nfe(self) -> int:
        """Calls so far."""
        return self._calls.nfe

    @property
    def forward_passes(self) -> int:
        """Forward passes of the network so far: guided calls have two."""
        return self._calls.forward_passes

    def prepare(self, times: Tensor) -> None:
        """Compute once what calls at times (n,) float64 on the CPU have in common: their coefficients."""
        self._network.tabulate(times)
        alpha, sigma = self.process.alpha(times).tolist(), self.process.sigma(times).tolist()
        self._scales = dict(zip(times.tolist(), zip(alpha, sigma, strict=True), strict=True))

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict the clean data: x (b, *item), t 0-d or (b,) float64 on the CPU -> (b, *item).

        Raises ValueError for another number of rows than there are conditions.
        """
        if self._condition is not None and len(x) != _rows(self._condition):
            raise ValueError(f"{len(x)} rows for {_rows(self._condition)} conditions")
        self._calls.nfe += 1
        self._calls.forward_passes += 1 if self._both is None else 2
        if self._guidance is None:
            return self._network.x0(x, t, self._condition)
        if self._both is None:
            d_cond, d_ref = self._network.x0(x, t, self._condition), None
        else:
            times = t if t.ndim == 0 else torch.cat([t, t])
            d_cond, d_ref = self._network.x0(torch.cat([x, x]), times, self._both).chunk(2)
        known = self._scales.get(float(t)) if t.ndim == 0 else None
        alpha, sigma = (cast_like(c, x) for c in known or (self.process.alpha(t), self.process.sigma(t)))
        context = GuidanceContext(x=x, d_cond=d_cond, d_ref=d_ref, t=t, alpha=alpha, sigma=sigma)
        x0, self._state = self._guidance(context, self._state)
        return x0

    def take(self, index: Tensor) -> NetworkDenoiser:
        """Return the denoiser of the rows `index` (r,), which may repeat; its calls count with these.

        Raises UsageError for a stateful guidance, whose state belongs to the rows it has seen.
        """
        if self._guidance is not None and self._guidance.stateful:
            raise UsageError(
                f"the guidance {type(self._guidance).__name__} keeps a state and cannot be applied to part of the rows",
                hint="choose a guidance without a state, or a sampler that takes all rows at once",
            )
        condition, null = (None if c is None else c.take(index) for c in (self._condition, self._null))
        taken = NetworkDenoiser(self._network, condition, self._guidance, null)
        taken._calls, taken._scales = self._calls, self._scales
        return taken


def _reference(
    network: Network, condition: Condition | None, guidance: Guidance | None, null: Condition | None
) -> Condition | None:
    """Return the condition of the reference prediction, or None where guidance needs none."""
    if guidance is None or not guidance.needs:
        return None
    name = type(guidance).__name__
    unknown = guidance.needs - {"unconditional"}
    if unknown:
        raise UsageError(f"the guidance {name} needs {', '.join(sorted(unknown))}, which this engine does not have")
    if condition is None:
        raise UsageError(
            f"the guidance {name} amplifies a condition, and there is none",
            hint="give the pipeline a conditioner and the samples a condition, or set sampling.guidance.use=none",
        )
    if null is not None:
        return null
    if network.conditioner is None:
        raise UsageError(f"the guidance {name} needs the null condition, and the network has no conditioner")
    return network.conditioner.null(_rows(condition))


def _rows(condition: Condition) -> int:
    parts = (condition.vector, condition.tokens, condition.image)
    return next(len(part) for part in parts if part is not None)
