"""The identity of flow maps: what the network should say, for the end of a step not to depend on where it starts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import attrs
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from atlas_core.contracts import Condition, Network, Parametrization, Process
from atlas_solvers_builtin.objectives.times import time_range
from atlas_solvers_builtin.processes.gaussian import like

Derivative = Literal["jvp", "finite-difference"]
_STEP = 0.02
"""Half the log-SNR between the two calls of a finite difference: float32 outputs tell it apart to 1e-4."""
_LEAST = -13.0
"""Log-SNR below which there is but noise: differences are taken from there to the end."""


@attrs.frozen(eq=False, slots=False)
class Path:
    """Where the samples are at times s (b,), each on its own way from data x0 to noise z, (b, *item)."""

    process: Process
    x0: Tensor
    z: Tensor
    s: Tensor

    @cached_property
    def x(self) -> Tensor:
        """α x₀ + σ z."""
        return self.process.mix(self.x0, self.z, self.s)

    @cached_property
    def velocity(self) -> Tensor:
        """α̇ x₀ + σ̇ z."""
        process = self.process
        return like(process.alpha_dot(self.s), self.x0) * self.x0 + like(process.sigma_dot(self.s), self.z) * self.z


def identity_target(
    network: Network, path: Path, t: Tensor, condition: Condition | None, derivative: Derivative
) -> tuple[Tensor, Tensor]:
    """Return the network's output F (b, *item) for the steps s → t (b,), and F − R, what it should be.

    Along a path of the ODE the end of a step, keep x_s + pull x̂₀(x_s, s), does not depend on s. Differentiated:
    keep g (x̂₀ − D) − pull dx̂₀/ds = 0, where D is the denoiser and g = α̇ − α σ̇/σ. In units of F, with x₀ for D:

        R = (keep (x̂₀ − x₀) − pull/g dx̂₀/ds) / c_out = a F + b F' + c x₀ + d z,

    whose mean given x_s is zero for the exact map. On rectified flow with `velocity`, R = u − (z − x₀) + (s − t) u'
    (Geng et al. 2025, eq. 10). The four coefficients are computed in float64, so that nothing cancels.
    """
    process, parametrization, s = path.process, network.parametrization, path.s
    keep, pull = process.ode_step(s, t)
    (skip, out, _), (skip_dot, out_dot, level_dot) = _slopes(parametrization, process, s)
    alpha, sigma, alpha_dot, sigma_dot = process.alpha(s), process.sigma(s), process.alpha_dot(s), process.sigma_dot(s)
    ahead = pull / (alpha_dot - alpha * sigma_dot / sigma)
    on_output = keep - ahead * out_dot / out
    on_data = (keep * (skip * alpha - 1) - ahead * (skip_dot * alpha + skip * alpha_dot)) / out
    on_noise = (keep * skip * sigma - ahead * (skip_dot * sigma + skip * sigma_dot)) / out
    if not bool(ahead.any()):  # steps of no length: flow matching
        output = network.raw(path.x, s, condition, t_end=t)
        change = output.detach() * 0
    else:
        output, change = _change(network, path, t, condition, derivative, level_dot == 0)
    terms = ((on_output, output), (-ahead, change), (on_data, path.x0), (on_noise, path.z))
    residual = sum((like(factor, output) * term.detach() for factor, term in terms), torch.zeros_like(output))
    return output, output.detach() - residual


def _slopes(parametrization: Parametrization, process: Process, s: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    """Return (c_skip, c_out, c_noise) and their derivatives at s."""
    values, slopes = _jvp(lambda s: parametrization.coefficients(process, s)[1:], (s,), (torch.ones_like(s),))
    return values, slopes


def _change(
    network: Network, path: Path, t: Tensor, condition: Condition | None, derivative: Derivative, blind: Tensor
) -> tuple[Tensor, Tensor]:
    """Return F for the steps s → t and, without a graph, dF/ds along the paths, t fixed.

    `blind` rows (b,) are those where the network is told all levels alike: forward mode would see no change with s.
    """

    def output(x: Tensor, s: Tensor) -> Tensor:
        return network.raw(x, s, condition, t_end=t)

    value = output(path.x, path.s)
    # In half precision a derivative is lost: differences of rounding errors, and forward mode mixes the two kinds.
    with torch.no_grad(), torch.autocast(path.x.device.type, enabled=False):
        if derivative == "finite-difference":
            return value, _difference(network, path, t, condition)
        # Fused attention has no forward mode.
        with sdpa_kernel(SDPBackend.MATH):
            _, slope = _jvp(output, (path.x, path.s), (path.velocity, torch.ones_like(path.s)))
        if bool(blind.any()):
            rows = blind.nonzero()[:, 0]
            some = Path(path.process, path.x0[rows], path.z[rows], path.s[rows])
            told = None if condition is None else condition.take(rows)
            slope = slope.index_copy(0, rows.to(slope.device), _difference(network, some, t[rows], told))
        return value, slope


def _jvp(of: Callable[..., Any], at: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> tuple[Any, Any]:
    value, slope = torch.func.jvp(of, at, along)[:2]
    return value, slope


def _difference(network: Network, path: Path, t: Tensor, condition: Condition | None) -> Tensor:
    """dF/ds by a central difference along the paths themselves, evenly in log-SNR; one-sided at the ends."""
    process, log_snr = path.process, path.process.log_snr(path.s)
    first, last = time_range(process, network.parametrization)
    before = process.time_of_log_snr(log_snr.clamp(min=_LEAST) + _STEP).clamp(first, last)
    after = torch.where(log_snr > _LEAST, process.time_of_log_snr(log_snr - _STEP), last).clamp(first, last)
    one, other = (network.raw(process.mix(path.x0, path.z, time), time, condition, t_end=t) for time in (before, after))
    return (other - one) / like(after - before, one)
