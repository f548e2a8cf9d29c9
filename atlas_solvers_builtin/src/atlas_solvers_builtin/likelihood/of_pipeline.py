"""log p(x) under a trained pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from atlas_solvers_builtin.grids.logistic_log_snr import LogisticLogSNR
from atlas_solvers_builtin.likelihood.log_likelihood import LogLikelihood, log_likelihood

if TYPE_CHECKING:
    from atlas_core import Pipeline


def pipeline_log_likelihood(
    pipeline: Pipeline,
    x: Tensor,
    *,
    condition: Any = None,
    probes: int | None = 1,
    seed: int = 0,
    steps: int = 64,
) -> LogLikelihood:
    """Return log p(x | condition) of data x (b, *item) under what `pipeline` was trained to, without its guidance.

    `condition`: as `Pipeline.sample` takes it; None: of none. Probes of row i are drawn from `seed` + i. `steps`: of
    the grid logistic-log-snr, four calls and gradients each; the whole of x is one batch. The network is put into
    evaluation mode for as long as it takes. Raises UsageError before there is a network and for conditions that do not
    fit, else what `log_likelihood` raises.
    """
    network, x = pipeline.network, x.to(pipeline.device)
    times = LogisticLogSNR().times(network.process, steps)
    times[0] = pipeline.start_time
    noise = None if probes is None else pipeline.noise(seed, len(x))
    denoiser = pipeline.denoiser(len(x), condition)
    was_training = network.training
    network.eval()
    try:
        return log_likelihood(denoiser, x, times=times, probes=probes, noise=noise)
    finally:
        network.train(was_training)
