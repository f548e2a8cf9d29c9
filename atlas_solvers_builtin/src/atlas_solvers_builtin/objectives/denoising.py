"""The objective `denoising`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import attrs
import torch
from attrs.validators import gt, in_
from torch import Tensor

from atlas_core import derived
from atlas_core.contracts import Batch, LossOutput, Network, NoiseSource, Parametrization, Process
from atlas_solvers_builtin.objectives.choices import chosen, only_for, refuse_without_effect
from atlas_solvers_builtin.objectives.times import time_range

Weighting = Literal["edm", "min-snr", "uniform"]


@attrs.frozen
class Denoising:
    """Teach a network to remove noise: the weighted square error of x̂₀, at noise levels drawn for each sample.

    L = w(t) |x̂₀(αx₀ + σz, t) − x₀|², averaged over the item, on any process and with any parametrization. With
    ς = σ/α and d = sigma_data:

    - `edm`: w = (ς² + d²)/(ςd)², which is 1 on the output of the `edm` parametrization; ln ς ~ N(p_mean, p_std²), cut
      at the ends of the process (Karras et al. 2022, table 1). On Gaussian data of deviation d no loss is below 1.
    - `min-snr`: w = min(1/ς², gamma); t uniform (Hang et al. 2023, eq. 8).
    - `uniform`: w = 1/c_out², so that every error of the network's output counts alike: the simple loss of Ho et al.
      2020 with `eps`, flow matching with `velocity`; t uniform.
    """

    paper = "Karras et al. 2022; Hang et al. 2023; Ho, Jain & Abbeel 2020, eq. 14"
    networks = frozenset({"denoiser"})
    couples_batch = False

    weighting: Weighting = attrs.field(
        default="edm",
        validator=in_(get_args(Weighting)),
        metadata={"help": "Which noise levels are drawn and how much each counts: edm, min-snr or uniform."},
    )
    gamma: float | None = only_for(
        "weighting", "min-snr", 5.0, "Signal-to-noise ratio beyond which the weight stops growing.", gt(0)
    )
    p_mean: float | None = only_for("weighting", "edm", -1.2, "Mean of ln(σ/α) in training.")
    p_std: float | None = only_for("weighting", "edm", 1.2, "Standard deviation of ln(σ/α) in training.", gt(0))
    sigma_data: float = derived("data.std", help="Standard deviation of the data.", validator=gt(0))

    def __attrs_post_init__(self) -> None:
        refuse_without_effect(self)

    def loss(self, networks: Mapping[str, Network], batch: Batch, noise: NoiseSource) -> LossOutput:
        """Return the loss of each row; `mse` in the logs is the unweighted error of x̂₀."""
        network = networks["denoiser"]
        process = network.process
        t = self.times(process, network.parametrization, noise.uniform("time", batch.step))
        x = process.mix(batch.x, noise.normal("noise", batch.step, batch.x), t)
        error = (network.x0(x, t, batch.condition) - batch.x).square().flatten(1).mean(1)
        weight = self.weight(process, network.parametrization, t)
        per_sample = weight.to(device=error.device, dtype=error.dtype) * error
        return LossOutput(per_sample, {"mse": error.detach()})

    def times(self, process: Process, parametrization: Parametrization, u: Tensor) -> Tensor:
        """Turn u (b,), uniform in [0, 1), into times within [t_min, t_max], by the inverse of their distribution."""
        first, last = time_range(process, parametrization)
        if self.weighting != "edm":
            return first + u * (last - first)
        mean, std = chosen(self, "p_mean"), chosen(self, "p_std")
        ends = -process.log_snr(torch.tensor([first, last], dtype=torch.float64)) / 2
        low, high = torch.special.ndtr((ends - mean) / std)
        level = mean + std * torch.special.ndtri(low + u * (high - low))
        return process.time_of_log_snr(-2 * level).clamp(first, last)

    def weight(self, process: Process, parametrization: Parametrization, t: Tensor) -> Tensor:
        """w(t) (b,), float64: what the square error of x̂₀ counts."""
        if self.weighting == "uniform":
            return parametrization.coefficients(process, t)[2].square().reciprocal()
        snr = process.log_snr(t).exp()
        if self.weighting == "min-snr":
            return snr.clamp(max=chosen(self, "gamma"))
        return snr + 1 / self.sigma_data**2  # (ς² + d²)/(ςd)² = 1/ς² + 1/d²
