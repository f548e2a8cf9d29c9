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
    """Times that a network saw the rows of a call: two for a guided one, unless no row wanted the reference."""


@attrs.frozen
class _At:
    """What calls at one time have in common."""

    alpha: float
    sigma: float
    refers: bool


class NetworkDenoiser:
    """(x_t, t) → x̂₀ for given conditions: `atlas_core.contracts.Denoiser`.

    The prediction and an unconditional reference go through the network as one batch of twice the rows; where guidance
    wants none, only the prediction does. State of a stateful guidance lives as long as the denoiser: make one for each
    sampling.
    """

    def __init__(
        self,
        network: Network,
        condition: Condition | None = None,
        guidance: Guidance | None = None,
        null: Condition | None = None,
        *,
        weak: NetworkDenoiser | None = None,
    ) -> None:
        """`condition`: one row a sample, or None. `null`: what guidance refers to; by default the conditioner's.

        `weak`: the weak model, told the same of the same samples. Raises UsageError if the guidance needs a reference
        that there is none of.
        """
        self.process = network.process
        self._network = network
        self._guidance = guidance
        null = _reference(network, condition, guidance, null, weak)
        self._condition = None if condition is None else network.settle(condition)
        self._null = None if null is None else network.settle(null)
        self._both = None if self._condition is None or self._null is None else self._condition.cat(self._null)
        self._weak = weak if guidance is not None and "weak-model" in guidance.needs else None
        self._state: Any = None
        self._known: dict[float, _At] = {}
        self._calls = Calls()

    @property
    def nfe(self) -> int:
        """Calls so far."""
        return self._calls.nfe

    @property
    def forward_passes(self) -> int:
        """Forward passes so far, those of a weak model, too: guided calls have two."""
        return self._calls.forward_passes

    @property
    def stateful(self) -> bool:
        """Whether a call depends on the calls before it: steps cannot be taken back, nor rows taken out."""
        return self._guidance is not None and self._guidance.stateful

    def prepare(self, times: Tensor) -> None:
        """Compute once what calls at times (n,) float64 on the CPU have in common: their coefficients."""
        self._network.tabulate(times)
        if self._weak is not None:
            self._weak.prepare(times)
        columns = (self.process.alpha(times), self.process.sigma(times), self._refers(times))
        rows = zip(*(column.tolist() for column in columns), strict=True)
        self._known = {time: _At(*row) for time, row in zip(times.tolist(), rows, strict=True)}

    def __call__(self, x: Tensor, t: Tensor, *, t_end: Tensor | None = None) -> Tensor:
        """Predict the clean data: x (b, *item), t 0-d or (b,) float64 on the CPU -> (b, *item).

        `t_end`, of the shapes of t: the mean prediction of the step from t to there, by a network that was trained as
        a flow map. Raises ValueError for another number of rows than there are conditions.
        """
        if self._condition is not None and len(x) != _rows(self._condition):
            raise ValueError(f"{len(x)} rows for {_rows(self._condition)} conditions")
        self._calls.nfe += 1
        if self._guidance is None:
            self._calls.forward_passes += 1
            return self._network.x0(x, t, self._condition, t_end=t_end)
        known = self._known.get(float(t)) if t.ndim == 0 else None
        d_cond, d_ref = self._predict(x, t, t_end, known.refers if known else self._refers(t))
        scales = (known.alpha, known.sigma) if known else (self.process.alpha(t), self.process.sigma(t))
        alpha, sigma = (cast_like(c, x) for c in scales)
        context = GuidanceContext(x=x, d_cond=d_cond, d_ref=d_ref, t=t, alpha=alpha, sigma=sigma)
        x0, self._state = self._guidance(context, self._state)
        return x0

    def _refers(self, t: Tensor) -> Tensor:
        """Return whether guidance wants its reference at t: bool, of the shape of t."""
        wants = torch.full_like(t, self._both is not None or self._weak is not None, dtype=torch.bool)
        refers = getattr(self._guidance, "refers", None)
        return wants if refers is None else wants & refers(self.process.log_snr(t))

    def _predict(
        self, x: Tensor, t: Tensor, t_end: Tensor | None, refers: bool | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return the prediction and its reference, which rows that want none have equal to it; None if no row does."""
        any_row = bool(refers.any()) if isinstance(refers, Tensor) else refers
        self._calls.forward_passes += 1 + any_row
        if not any_row:
            return self._network.x0(x, t, self._condition, t_end=t_end), None
        if self._weak is not None:
            d_cond, d_ref = self._network.x0(x, t, self._condition, t_end=t_end), self._weak(x, t, t_end=t_end)
        else:
            times, ends = (at if at is None or at.ndim == 0 else torch.cat([at, at]) for at in (t, t_end))
            assert times is not None
            d_cond, d_ref = self._network.x0(torch.cat([x, x]), times, self._both, t_end=ends).chunk(2)
        if isinstance(refers, Tensor) and not bool(refers.all()):
            d_ref = torch.where(refers.to(x.device).view(-1, *[1] * (x.ndim - 1)), d_ref, d_cond)
        return d_cond, d_ref

    def take(self, index: Tensor) -> NetworkDenoiser:
        """Return the denoiser of the rows `index` (r,), which may repeat; its calls count with these.

        Raises UsageError for a stateful guidance, whose state belongs to the rows it has seen.
        """
        if self.stateful:
            raise UsageError(
                f"the guidance {type(self._guidance).__name__} keeps a state and cannot be applied to part of the rows",
                hint="choose a guidance without a state, or a sampler that takes all rows at once",
            )
        condition, null = (None if c is None else c.take(index) for c in (self._condition, self._null))
        weak = None if self._weak is None else self._weak.take(index)
        taken = NetworkDenoiser(self._network, condition, self._guidance, null, weak=weak)
        taken._calls, taken._known = self._calls, self._known
        return taken


def _reference(
    network: Network,
    condition: Condition | None,
    guidance: Guidance | None,
    null: Condition | None,
    weak: NetworkDenoiser | None,
) -> Condition | None:
    """Return the condition of the reference prediction, or None where it is none of this network."""
    if guidance is None or not guidance.needs:
        return None
    name = type(guidance).__name__
    if unknown := guidance.needs - {"unconditional", "weak-model"}:
        raise UsageError(f"the guidance {name} needs {', '.join(sorted(unknown))}, which this engine does not have")
    if len(guidance.needs) > 1:
        raise UsageError(f"the guidance {name} wants two references: a call has one, unconditional or a weak model")
    if "weak-model" in guidance.needs:
        if weak is None:
            raise UsageError(
                f"the guidance {name} leads away from a weak-model, and none was given",
                hint="name a checkpoint of it; in Python, pass weak=…, a denoiser of it for the same samples",
            )
        return None
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
