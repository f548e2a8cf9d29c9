"""The parametrization `velocity`."""

from __future__ import annotations

from typing import Literal, get_args

import attrs
from attrs.validators import in_
from torch import Tensor

from atlas_core.contracts import Process
from atlas_solvers_builtin.parametrizations.scaling import Coefficients, finite_at_data, noise_embedding, unit_input

Level = Literal["log-snr", "time"]


@attrs.frozen
class Velocity:
    """Let the network name where the sample is going: F = dx/dt = α̇ x₀ + σ̇ z, as in flow matching.

    With D = σ α̇ − α σ̇: x̂₀ = (σ F − σ̇ x) / D. Finite wherever σ̇ is, so legal on every process; but on `edm` F is σ̇ z,
    which spans four orders of magnitude: prefer `edm`, `v` or `eps` there.

    The network is told the log-SNR, as with the others, or the time itself: c_noise = t/4. The derivative of
    the log-SNR grows without bound at both ends, and networks see short waves of it; flow maps, which are trained by
    derivatives of their own, bear neither: on mixtures in the plane they are three times as exact with the time.
    """

    paper = "Lipman et al. 2023, eq. 9; Liu, Gong & Liu 2023, eq. 1"

    level: Level = attrs.field(
        default="log-snr",
        validator=in_(get_args(Level)),
        metadata={"help": "What the network is told of the noise level: log-snr, or time, better for flow maps."},
    )

    def coefficients(self, process: Process, t: Tensor) -> Coefficients:
        """c_skip = −σ̇/D, c_out = σ/D."""
        alpha, sigma, sigma_dot = process.alpha(t), process.sigma(t), process.sigma_dot(t)
        determinant = sigma * process.alpha_dot(t) - alpha * sigma_dot
        skip, out = finite_at_data(alpha, sigma, -sigma_dot / determinant, sigma / determinant)
        level = t / 4 if self.level == "time" else noise_embedding(process.log_snr(t))
        return unit_input(alpha, sigma), skip, out, level
