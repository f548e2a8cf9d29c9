"""The objective `flow-map`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import attrs
import torch
from attrs.validators import and_, ge, gt, in_, le, optional
from torch import Tensor

from atlas_core.contracts import Batch, Condition, LossOutput, Network, NoiseSource, Parametrization, Process
from atlas_solvers_builtin.objectives.choices import chosen, only_for, refuse_without_effect
from atlas_solvers_builtin.objectives.identity import Derivative, Path, identity_target
from atlas_solvers_builtin.objectives.times import logit_normal, time_range, uniform
from atlas_solvers_builtin.processes.gaussian import like

Target = Literal["mean-flow", "shortcut", "consistency"]
Times = Literal["uniform", "logit-normal"]
_SHORTEST = 2.0**-7
"""A shortcut that is no longer is taken to be straight: 128 steps, as in the paper."""
_FLOOR = 1e-3
"""What keeps the adaptive weight finite (Geng et al. 2025, appendix A: c)."""


def _only_with(*targets: str, default: float, help: str) -> Any:
    metadata = {"help": f"{help} Only for target = {' or '.join(targets)}; default {default:g}.", "targets": targets}
    return attrs.field(
        default=None, validator=optional(and_(ge(0), le(1))), metadata={**metadata, "otherwise": default}
    )


@attrs.frozen
class FlowMap:
    """Teach a network where a whole step of the probability-flow ODE leads, so that one to four steps are enough.

    The network says the mean clean data x̂₀(x_s, s → t) of the step from s to t ≤ s: keep x_s + pull x̂₀, with the
    process's own keep and pull, is the end of the step. For t = s that is the denoiser; on `rectified-flow` with
    `velocity` its output is the mean velocity u. Everything holds on any process and with any parametrization; L is the
    square error of the network's output F against a target that no gradient reaches.

    - `mean-flow`: from d/ds (keep x_s + pull x̂₀) = 0 along the ODE, which on rectified flow reads u = v − (s − t) du/ds
      (Geng et al. 2025, eq. 6), with the velocity of the sample's own path in place of v.
    - `shortcut`: a step leads where two steps of half its length do (Frans et al. 2025, eq. 5), taken by the same
      network without gradient; steps shorter than 2⁻⁷ are straight.
    - `consistency`: as mean-flow, but every step ends at the data, t = 0: continuous consistency training (Song et al.
      2023, section 5; Lu & Song 2024, eq. 6), discrete with finite differences. Between steps it adds fresh noise.

    On Gaussian data of deviation d no loss of the exact map is below j² d²σ²/(α²d² + σ²)/c_out² at s, where j is how
    much the map stretches.
    """

    paper = "Geng et al. 2025 (MeanFlow); Frans et al. 2025 (shortcut models); Song et al. 2023; Lu & Song 2024 (sCM)"
    networks = frozenset({"denoiser"})
    couples_batch = False

    target: Target = attrs.field(
        default="mean-flow",
        validator=in_(get_args(Target)),
        metadata={"help": "What a step has to agree with: mean-flow, shortcut or consistency."},
    )
    derivative: Derivative | None = attrs.field(
        default=None,
        validator=optional(in_(get_args(Derivative))),
        metadata={
            "help": "How the change along a path is taken: jvp (forward-mode, exact; the default) or "
            "finite-difference, for models that have none. Not for target = shortcut."
        },
    )
    times: Times = attrs.field(
        default="uniform",
        validator=in_(get_args(Times)),
        metadata={"help": "Law of the times that steps start and end at: uniform, or logit-normal."},
    )
    location: float | None = only_for("times", "logit-normal", -0.4, "Mean of ln(t / (1 − t)); above 0: more noise.")
    scale: float | None = only_for("times", "logit-normal", 1.0, "Standard deviation of ln(t / (1 − t)).", gt(0))
    instant: float | None = _only_with(
        "mean-flow", "shortcut", default=0.5, help="Part of the samples whose step is of no length: flow matching."
    )
    ends: float = attrs.field(
        default=0.25,
        validator=and_(ge(0), le(1)),
        metadata={"help": "Part of the steps that start in pure noise and, apart from that, end at the data."},
    )
    power: float = attrs.field(
        default=0.0,
        validator=ge(0),
        metadata={
            "help": "Each sample's loss is divided by this power of itself, without gradient; 1 as for mean "
            "flow in its paper, on large images. It biases the map of data of few values."
        },
    )

    def __attrs_post_init__(self) -> None:
        refuse_without_effect(self)
        if self.derivative is not None and self.target == "shortcut":
            raise ValueError("derivative has no effect with target = 'shortcut', which takes none")
        if self.instant is not None and self.target == "consistency":
            raise ValueError("instant has no effect with target = 'consistency': every step ends at the data")

    @property
    def trains(self) -> frozenset[str]:
        """A denoiser and a map to any time; with `consistency` a map to the data alone."""
        return frozenset({"endpoint"} if self.target == "consistency" else {"denoiser", "flow-map"})

    def loss(self, networks: Mapping[str, Network], batch: Batch, noise: NoiseSource) -> LossOutput:
        """Return the loss of each row; `error` in the logs is the square error before its adaptive weight."""
        network = networks["denoiser"]
        process, parametrization = network.process, network.parametrization
        self.check(process, parametrization)
        z = noise.normal("noise", batch.step, batch.x) if batch.source is None else batch.source
        s, t = self.draw_steps(process, parametrization, noise.uniform("time", batch.step, (5,)))
        error = batch.x.new_empty(len(batch.x))
        moving = t < s
        parts = [rows for rows in (moving.nonzero()[:, 0], (~moving).nonzero()[:, 0]) if len(rows)]
        for rows in parts:
            path = Path(process, batch.x[rows], z[rows], s[rows])
            condition = None if batch.condition is None else batch.condition.take(rows)
            output, target = self._target(network, path, t[rows], condition)
            part = (output - target.detach()).square().flatten(1).mean(1)
            error = error.to(part.dtype).index_copy(0, rows.to(part.device), part)
        weight = (error.detach() + _FLOOR).pow(-self.power)
        return LossOutput(weight * error, {"error": error.detach()})

    def check(self, process: Process, parametrization: Parametrization) -> None:
        """Raise ValueError for a pair on which consistency says nothing of what the data are.

        That the end is the same from everywhere, a constant fulfils, too. What it is, c_out = 0 at the data says.
        """
        least = torch.tensor([process.t_min], dtype=torch.float64)
        if self.target == "consistency" and float(parametrization.coefficients(process, least)[2].abs()) > 0.1:
            raise ValueError(
                f"target = 'consistency' needs a parametrization that returns its input where there is no noise; "
                f"{type(parametrization).__name__} does not: take edm, v or velocity"
            )

    def draw_steps(self, process: Process, parametrization: Parametrization, u: Tensor) -> tuple[Tensor, Tensor]:
        """Turn u (b, 5), uniform in [0, 1), into where steps start, and where they end: 0 ≤ t ≤ s, (b,) each."""
        first, last = time_range(process, parametrization)
        one, other = (self._law(u[:, i], first, last) for i in (0, 1))
        s, t = (torch.maximum(one, other), torch.minimum(one, other))
        if self.target == "consistency":
            s = one
        s = torch.where(u[:, 2] < self.ends, last, s)
        if self.target == "consistency":
            return s, torch.zeros_like(s)
        if self.target == "shortcut":  # of every length alike, the shortest first to be known
            t = s - (s - first) * _SHORTEST ** u[:, 1]
        t = torch.where(u[:, 3] < self.ends, 0.0, t)
        instant = 0.5 if self.instant is None else self.instant
        return s, torch.where(u[:, 4] < instant, s, t)

    def _law(self, u: Tensor, first: float, last: float) -> Tensor:
        if self.times == "uniform":
            return uniform(u, first, last)
        return logit_normal(u, first, last, chosen(self, "location"), chosen(self, "scale"))

    def _target(self, network: Network, path: Path, t: Tensor, condition: Condition | None) -> tuple[Tensor, Tensor]:
        """Return the output F (b, *item) for the steps s → t, and what it should be; rows all move, or none does."""
        if self.target == "shortcut" and bool((t < path.s).all()):
            target = self._two_halves(network, path, t, condition)
            return network.raw(path.x, path.s, condition, t_end=t), target
        return identity_target(network, path, t, condition, self.derivative or "jvp")

    @torch.no_grad()
    def _two_halves(self, network: Network, path: Path, t: Tensor, condition: Condition | None) -> Tensor:
        """What F should say of s → t for the step to lead where s → m → t does."""
        process, s, x = path.process, path.s, path.x
        m = (s + t.clamp(min=process.t_min)) / 2  # a step to the data is halved where networks are trained
        straight = s - m < _SHORTEST
        (keep1, pull1), (keep2, pull2) = process.ode_step(s, m), process.ode_step(m, t)
        one = network.x0(x, s, condition, t_end=torch.where(straight, s, m))
        middle = like(keep1, x) * x + like(pull1, x) * one
        two = network.x0(middle, m, condition, t_end=torch.where(straight & (t > 0), m, t))
        _, pull = process.ode_step(s, t)
        mean = like(keep2 * pull1 / pull, x) * one + like(pull2 / pull, x) * two
        _, skip, out, _ = network.parametrization.coefficients(process, s)
        return (mean - like(skip, x) * x) / like(out, x)
