"""The objective `denoising`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import attrs
from attrs.validators import gt, in_
from torch import Tensor, nn

from atlas_core import derived
from atlas_core.contracts import Batch, LossOutput, Network, NoiseSource, Parametrization, Process
from atlas_solvers_builtin.objectives.choices import chosen, only_for, refuse_without_effect
from atlas_solvers_builtin.objectives.times import log_normal, logit_normal, time_range, uniform
from atlas_solvers_builtin.objectives.uncertainty import Uncertainty

Weighting = Literal["edm", "min-snr", "uniform"]
Times = Literal["log-normal", "logit-normal", "uniform"]


@attrs.frozen
class DenoisingConfig:
    """Which noise levels are trained, and how much each of them counts."""

    weighting: Weighting = attrs.field(
        default="edm",
        validator=in_(get_args(Weighting)),
        metadata={"help": "How much the error at a noise level counts: edm, min-snr or uniform."},
    )
    gamma: float | None = only_for(
        "weighting", "min-snr", 5.0, "Signal-to-noise ratio beyond which the weight stops growing.", gt(0)
    )
    times: Times = attrs.field(
        default="log-normal",
        validator=in_(get_args(Times)),
        metadata={"help": "Law of the training times: σ/α log-normal as in EDM, t logit-normal, or t uniform."},
    )
    p_mean: float | None = only_for("times", "log-normal", -1.2, "Mean of ln(σ/α) in training.")
    p_std: float | None = only_for("times", "log-normal", 1.2, "Standard deviation of ln(σ/α) in training.", gt(0))
    location: float | None = only_for("times", "logit-normal", 0.0, "Mean of ln(t / (1 − t)); above 0: more noise.")
    scale: float | None = only_for("times", "logit-normal", 1.0, "Standard deviation of ln(t / (1 − t)).", gt(0))
    uncertainty: bool = attrs.field(
        default=False,
        metadata={"help": "Learn how large the loss is at each noise level and divide by it, so that all count alike."},
    )
    sigma_data: float = derived("data.std", help="Standard deviation of the data.", validator=gt(0))

    def __attrs_post_init__(self) -> None:
        refuse_without_effect(self)


class Denoising(nn.Module):
    """Teach a network to remove noise: the weighted square error of x̂₀, at noise levels drawn for each sample.

    L = w(t) |x̂₀(αx₀ + σz, t) − x₀|², averaged over the item, on any process and with any parametrization. With
    ς = σ/α and d = sigma_data:

    - `edm`: w = (ς² + d²)/(ςd)², which is 1 on the output of the `edm` parametrization (Karras et al. 2022, table 1).
      On Gaussian data of deviation d no loss is below 1.
    - `min-snr`: w = min(1/ς², gamma) (Hang et al. 2023, eq. 8); their times are uniform.
    - `uniform`: w = 1/c_out², so that every error of the network's output counts alike: with uniform times the simple
      loss of Ho et al. 2020 with `eps`, flow matching with `velocity`.

    Times are cut at the ends of the process. With `uncertainty` the loss is L/eᵘ + u, where u(ς) is learned: the
    optimum is u = ln E[L] (Karras et al. 2024, section 2.2). Its few weights are trained, averaged and saved with the
    network's.
    """

    Config = DenoisingConfig
    paper = "Karras et al. 2022; Hang et al. 2023; Ho, Jain & Abbeel 2020, eq. 14; Karras et al. 2024, eq. 14-15"
    networks = frozenset({"denoiser"})
    couples_batch = False

    def __init__(self, config: DenoisingConfig) -> None:
        super().__init__()
        self.config = config
        self.uncertainty = Uncertainty() if config.uncertainty else None

    def loss(self, networks: Mapping[str, Network], batch: Batch, noise: NoiseSource) -> LossOutput:
        """Return the loss of each row; `mse` in the logs is the unweighted error of x̂₀.

        With `uncertainty` the loss may be negative; `weighted` in the logs is what it is without.
        """
        network = networks["denoiser"]
        process = network.process
        t = self.times(process, network.parametrization, noise.uniform("time", batch.step))
        x = process.mix(batch.x, noise.normal("noise", batch.step, batch.x), t)
        error = (network.x0(x, t, batch.condition) - batch.x).square().flatten(1).mean(1)
        weight = self.weight(process, network.parametrization, t)
        weighted = weight.to(device=error.device, dtype=error.dtype) * error
        logs = {"mse": error.detach()}
        if self.uncertainty is None:
            return LossOutput(weighted, logs)
        u = self.uncertainty(process.log_snr(t)).to(weighted)
        return LossOutput(weighted * (-u).exp() + u, logs | {"weighted": weighted.detach()})

    def times(self, process: Process, parametrization: Parametrization, u: Tensor) -> Tensor:
        """Turn u (b,), uniform in [0, 1), into times within [t_min, t_max], by the inverse of their distribution."""
        config, (first, last) = self.config, time_range(process, parametrization)
        if config.times == "uniform":
            return uniform(u, first, last)
        if config.times == "logit-normal":
            return logit_normal(u, first, last, chosen(config, "location"), chosen(config, "scale"))
        return log_normal(u, first, last, chosen(config, "p_mean"), chosen(config, "p_std"), process)

    def weight(self, process: Process, parametrization: Parametrization, t: Tensor) -> Tensor:
        """w(t) (b,), float64: what the square error of x̂₀ counts."""
        if self.config.weighting == "uniform":
            return parametrization.coefficients(process, t)[2].square().reciprocal()
        snr = process.log_snr(t).exp()
        if self.config.weighting == "min-snr":
            return snr.clamp(max=chosen(self.config, "gamma"))
        return snr + 1 / self.config.sigma_data**2  # (ς² + d²)/(ςd)² = 1/ς² + 1/d²
