"""The objective `flow-matching`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Literal, get_args

import attrs
import torch
from attrs.validators import gt, in_
from torch import Tensor

from atlas_core import component
from atlas_core.contracts import Batch, LossOutput, Network, NoiseSource, Parametrization, Process, Solver
from atlas_solvers_builtin.objectives.choices import chosen, only_for, refuse_without_effect
from atlas_solvers_builtin.objectives.pairing import draw_permutation
from atlas_solvers_builtin.objectives.times import logit_normal, time_range
from atlas_solvers_builtin.processes.gaussian import like

Times = Literal["uniform", "logit-normal"]


@attrs.frozen
class FlowMatching:
    """Teach a network where samples are going: the square error of the velocity dx/dt, at times drawn for each sample.

    L = |v̂(x_t, t) − (α̇ x₀ + σ̇ z)|², averaged over the item, with x_t = α x₀ + σ z and
    v̂ = (σ̇/σ) x_t + (α̇ − α σ̇/σ) x̂₀, on any process and with any parametrization; with `velocity`, v̂ is the network's
    output. z is noise, or the row of `batch.source`. On Gaussian data of deviation s no loss is below
    (σα̇ − ασ̇)² s² / (α²s² + σ²) at t, unless a coupling pairs noise with data.

    A coupling pairs the noise of a batch with its data by optimal transport: straighter paths, a smaller loss, fewer
    steps to sample (Pooladian et al. 2023; Tong et al. 2024). Pairs are drawn from its plan so that each row is used
    once and each pair as often as the plan says: `pairing.draw_permutation`.
    """

    paper = "Lipman et al. 2023, eq. 9; Liu, Gong & Liu 2023, eq. 1; Tong et al. 2024, algorithm 3; Esser et al. 2024"
    networks = frozenset({"denoiser"})

    times: Times = attrs.field(
        default="uniform",
        validator=in_(get_args(Times)),
        metadata={"help": "Law of the training times: uniform, or logit-normal, which prefers the middle."},
    )
    location: float | None = only_for("times", "logit-normal", 0.0, "Mean of ln(t / (1 − t)); above 0: more noise.")
    scale: float | None = only_for("times", "logit-normal", 1.0, "Standard deviation of ln(t / (1 − t)).", gt(0))
    coupling: Solver | None = component(
        "solver", default=None, help="Solver that pairs the noise of a batch with its data; unset: by chance."
    )
    within_condition: bool = attrs.field(
        default=False,
        metadata={
            "help": "Couple samples of one class alone, so that noise stays N(0, I) for each class: needed by a "
            "conditional model. Only with a coupling."
        },
    )

    def __attrs_post_init__(self) -> None:
        refuse_without_effect(self)
        if self.within_condition and self.coupling is None:
            raise ValueError("within_condition has no effect without a coupling; set coupling, as { use = 'sinkhorn' }")

    @property
    def couples_batch(self) -> bool:
        """Whether rows depend on each other: then the engine asks for `pairs` of the global batch."""
        return self.coupling is not None

    def loss(self, networks: Mapping[str, Network], batch: Batch, noise: NoiseSource) -> LossOutput:
        """Return the loss of each row; `mse` in the logs is the error of x̂₀, `pair_cost` |x₀ − z|² a value.

        `batch.source` is taken as paired; without it, and with a coupling, the rows of this batch are paired here.
        """
        if self.couples_batch and not self.within_condition and batch.condition is not None:
            _warn_of_classes()
        network = networks["denoiser"]
        process, parametrization = network.process, network.parametrization
        z = batch.source
        if z is None:
            z = self.source(batch, noise)
            if self.couples_batch:
                z = z[self.pairs(attrs.evolve(batch, source=z), noise)]
        t = self.draw_times(process, parametrization, noise.uniform("time", batch.step))
        output = network.raw(process.mix(batch.x, z, t), t, batch.condition)
        # v̂ − v as one combination of F, x₀ and z, its coefficients in float64: nothing cancels, whatever F means.
        _, skip, out, _ = parametrization.coefficients(process, t)
        alpha, sigma = process.alpha(t), process.sigma(t)
        gain = process.alpha_dot(t) - alpha * process.sigma_dot(t) / sigma
        on_output, on_data, on_noise = (
            like(c, output) for c in (gain * out, gain * (skip * alpha - 1), gain * skip * sigma)
        )
        per_sample = (on_output * output + on_data * batch.x + on_noise * z).square().flatten(1).mean(1)
        logs = {"mse": per_sample.detach() / gain.square().to(per_sample)}
        if self.couples_batch:
            logs["pair_cost"] = (batch.x - z).detach().square().flatten(1).mean(1)
        return LossOutput(per_sample, logs)

    def draw_times(self, process: Process, parametrization: Parametrization, u: Tensor) -> Tensor:
        """Turn u (b,), uniform in [0, 1), into times within [t_min, t_max], by the inverse of their distribution."""
        first, last = time_range(process, parametrization)
        if self.times == "uniform":
            return first + u * (last - first)
        return logit_normal(u, first, last, chosen(self, "location"), chosen(self, "scale"))

    def source(self, batch: Batch, noise: NoiseSource) -> Tensor:
        """Return the t = 1 end of each row, not yet paired: the batch's own, or noise (b, *item)."""
        return noise.normal("noise", batch.step, batch.x) if batch.source is None else batch.source

    @torch.no_grad()
    def pairs(self, batch: Batch, noise: NoiseSource) -> Tensor:
        """Return, for each row of `batch.x`, the row (b,) of `batch.source` that it is paired with: a permutation.

        `batch.condition` holds the raw conditions, as a dataset has them. Raises ValueError for conditions that cannot
        be told apart where `within_condition` needs it.
        """
        if self.coupling is None or batch.source is None:
            raise ValueError("pairs needs a coupling, and batch.source: see `source`")
        if not self.within_condition:
            return self._pair(batch.x, batch.source, noise, batch.step)
        pairs = torch.arange(len(batch.x), device=batch.x.device)
        for group in _rows_by_label(batch.condition, len(batch.x)):
            if len(group) > 1:
                rows = group.to(pairs.device)
                pairs[rows] = rows[self._pair(batch.x[rows], batch.source[rows], noise.select(group), batch.step)]
        return pairs

    def _pair(self, x: Tensor, z: Tensor, noise: NoiseSource, step: int) -> Tensor:
        assert self.coupling is not None
        kernel = getattr(self.coupling, "kernel", None)
        if getattr(kernel, "item_ndim", 1) == 1:  # images are points to a kernel that knows no images
            x, z = x.flatten(1), z.flatten(1)
        return draw_permutation(self.coupling.solve(x.detach(), z.detach()).plan(), noise, step)


def _rows_by_label(conditions: Any, count: int) -> list[Tensor]:
    """Return the rows (r,) of each label, on the CPU."""
    if isinstance(conditions, Tensor):
        conditions = conditions.tolist()
    if not isinstance(conditions, Sequence) or len(conditions) != count or not all(map(_is_label, conditions)):
        raise ValueError(
            f"within_condition needs the raw conditions of {count} rows, a sequence of labels, not "
            f"{type(conditions).__name__}: pair before they are encoded (see `pairs`), or leave within_condition out"
        )
    groups: dict[Any, list[int]] = {}
    for row, condition in enumerate(conditions):
        groups.setdefault(condition, []).append(row)
    return [torch.tensor(rows) for rows in groups.values()]


def _is_label(condition: Any) -> bool:
    """A number with a fraction, or a vector, is hardly ever twice in a batch, and would couple nothing."""
    return condition is None or isinstance(condition, str | Integral)


def _warn_of_classes() -> None:
    warnings.warn(
        "flow-matching couples samples of different conditions: the noise of one condition is then not N(0, I), which "
        "is what samplers start from. A conditional model wants within_condition = true",
        RuntimeWarning,
        stacklevel=3,
    )
