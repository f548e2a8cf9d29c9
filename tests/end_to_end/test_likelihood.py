"""Log-likelihoods of a run against those of its network, bound by hand."""

from __future__ import annotations

import torch
from atlas_solvers_builtin.grids.logistic_log_snr import LogisticLogSNR
from atlas_solvers_builtin.likelihood import log_likelihood, pipeline_log_likelihood

from atlas_core import load
from atlas_core.engine.denoiser import NetworkDenoiser
from atlas_core.engine.noise import CounterNoise


def test_a_pipeline_scores_as_its_network_does_and_each_image_alone(digits_run):
    pipeline = load(digits_run)
    network = pipeline.network
    x = torch.linspace(-1, 1, 3 * 64).view(3, 1, 8, 8)
    found = pipeline_log_likelihood(pipeline, x, condition=[7, 1, 1], probes=2, seed=5, steps=4)
    denoiser = NetworkDenoiser(network, network.conditioner.encode([7, 1, 1]))
    noise = CounterNoise.from_seeds([5, 6, 7])
    times = LogisticLogSNR().times(network.process, 4)
    by_hand = log_likelihood(denoiser, x, times=times, probes=2, noise=noise)
    torch.testing.assert_close(found.nats, by_hand.nats, rtol=0, atol=1e-9)
    alone = pipeline_log_likelihood(pipeline, x[1:2], condition=1, probes=2, seed=6, steps=4)
    torch.testing.assert_close(alone.nats, found.nats[1:2], rtol=1e-4, atol=1e-2)
    unconditional = pipeline_log_likelihood(pipeline, x[1:2], probes=2, seed=6, steps=4)
    assert float((unconditional.nats - alone.nats).abs()) > 0
