"""log p(x) by the change of variables along the probability-flow ODE."""

from __future__ import annotations

import math
from itertools import pairwise

import attrs
import torch
from torch import Tensor

from atlas_core.contracts import Denoiser, NoiseSource
from atlas_solvers_builtin.grids.logistic_log_snr import LogisticLogSNR
from atlas_solvers_builtin.likelihood.flow import Flow


@attrs.frozen(eq=False)
class LogLikelihood:
    """What `log_likelihood` returns."""

    nats: Tensor
    """(b,) log p(x), the natural logarithm of the density at x; float64."""
    standard_error: Tensor | None
    """(b,) of `nats`, by the scatter of the probes; None for the exact trace and for one probe."""
    latent: Tensor
    """(b, *item) where the flow has taken x, in units of the prior: N(0, I) if the model is right."""
    calls: int
    """Of the denoiser."""

    def bits_per_dim(self, levels: int = 256, low: float = -1.0, high: float = 1.0) -> Tensor:
        """Return (b,) bits a number, as images of `levels` steps from low to high are scored: less is better.

        −log₂ p/d + log₂(levels/(high − low)). A bound on the code length only if x is dequantized: with uniform noise
        of one step added (Theis, van den Oord & Bethge 2016); at the levels themselves it can be anything.
        """
        size = math.prod(self.latent.shape[1:])
        return -self.nats / (size * math.log(2)) + math.log2(levels / (high - low))


def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    *,
    times: Tensor | None = None,
    probes: int | None = 1,
    noise: NoiseSource | None = None,
) -> LogLikelihood:
    """Return log p(x) under the probability-flow ODE of `denoiser`, for data x (b, *item).

    In w = x/√(α² + σ²) and φ = arctan(σ/α), which are finite from data to pure noise, with d numbers a sample,

        dw/dφ = (w cos φ − x̂₀)/sin φ,   d log p(w)/dφ = −(d cos φ − tr ∂x̂₀/∂w)/sin φ,

    solved by the classical Runge–Kutta method of order 4 from the process's t_min, where x counts as data with noise
    σ/α = 0.002 or so, to times[0], where w is N(0, σ²/(α² + σ²)) as the process's prior is. p is the density of what
    `euler` and its kin draw with small steps.

    `times`: (n + 1,) decreasing from noise to data, float64 on the CPU, as a grid returns them; by default 64 steps of
    logistic-log-snr. A step takes four calls and gradients.
    `probes`: of Hutchinson's estimate of the trace, ±1 each, fixed along the path and drawn from row i's `noise`; None:
    the exact trace, at as many gradients a call as a sample has numbers.

    Raises ValueError for probes without noise, for times that do not decrease from noise to data, for a denoiser
    without a graph, and where log p is not finite.

    Paper: Song et al. 2021 (Score-based SDEs), eq. 39; Grathwohl et al. 2019 (FFJORD), sec. 3; Hutchinson 1990.
    """
    path = _angles(denoiser, times)
    if probes is not None and probes < 1:
        raise ValueError(f"probes is at least 1, or None for the exact trace, not {probes}")
    directions = None if probes is None else _directions(noise, probes, x)
    flow = Flow(denoiser, directions)
    size = math.prod(x.shape[1:])
    w = x * math.cos(path[0])
    gained = torch.zeros(len(x), 1 if probes is None else probes, dtype=torch.float64, device=x.device)
    for begin, end in pairwise(path):
        w, gain = flow.step(w, begin, end)
        gained += gain
    latent = w / math.sin(path[-1])
    prior = -latent.double().square().flatten(1).sum(1) / 2 - size * math.log(
        math.sqrt(2 * math.pi) * math.sin(path[-1])
    )
    each = gained + (prior + size * math.log(math.cos(path[0])))[:, None]
    nats = each.mean(1)
    if not bool(nats.isfinite().all()):
        first = int((~nats.isfinite()).nonzero()[0])
        raise ValueError(
            f"the log-likelihood of sample {first} is {float(nats[first])}: does the denoiser return numbers?"
        )
    error = each.std(1) / math.sqrt(probes) if probes is not None and probes > 1 else None
    return LogLikelihood(nats=nats, standard_error=error, latent=latent, calls=flow.calls)


def _angles(denoiser: Denoiser, times: Tensor | None) -> list[float]:
    """Return φ = arctan(σ/α) from data to noise, at times and at t_min."""
    process = denoiser.process
    if times is None:
        times = LogisticLogSNR().times(process, 64)
    if times.ndim != 1 or len(times) < 2 or not bool((times.diff() < 0).all()):
        raise ValueError(f"times must be (n + 1,) and decrease from noise to data, not {times.tolist()}")
    first = torch.tensor([process.t_min], dtype=torch.float64)
    kept = torch.cat([times[times > process.t_min], first]).flip(0)
    angles: list[float] = torch.atan2(process.sigma(kept), process.alpha(kept)).tolist()
    return angles


def _directions(noise: NoiseSource | None, probes: int, x: Tensor) -> Tensor:
    """Return (probes, b, *item) of ±1, in the dtype and on the device of x."""
    if noise is None:
        raise ValueError("probes are drawn: pass noise=…, a NoiseSource with one row a sample, or probes=None")
    if noise.rows != len(x):
        raise ValueError(f"noise for {noise.rows} rows, and {len(x)} samples")
    coins = [noise.uniform("likelihood", index, tuple(x.shape[1:])) < 0.5 for index in range(probes)]
    return torch.stack(coins).to(device=x.device, dtype=x.dtype) * 2 - 1
