"""log p(x) along the probability-flow ODE against the exact density of mixtures and Gaussians, in nats."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from atlas_solvers_builtin.grids.logistic_log_snr import LogisticLogSNR
from atlas_solvers_builtin.likelihood import log_likelihood
from atlas_solvers_builtin.likelihood.flow import Flow
from atlas_solvers_builtin.parametrizations import edm
from atlas_solvers_builtin.processes.edm import EDM
from atlas_solvers_builtin.processes.rectified_flow import RectifiedFlow
from atlas_solvers_builtin.processes.vp_cosine import VPCosine
from scipy.stats import multivariate_normal

from atlas_core.engine.denoiser import NetworkDenoiser
from atlas_core.engine.network import Network
from atlas_core.engine.noise import CounterNoise

F64 = torch.float64
TO_NOISE = {"vp-cosine", "rectified-flow"}
"""Where the flow ends in N(0, I) exactly; on the others it ends in the data with noise of 80 or 152."""


def exact(mixture, x):
    """log Σ_k w_k N(x; μ_k, s_k² I), by scipy."""
    parts = [
        math.log(w) + multivariate_normal(mean.numpy(), float(std) ** 2).logpdf(x.numpy())
        for w, mean, std in zip(mixture.weights.tolist(), mixture.means, mixture.stds, strict=True)
    ]
    return torch.from_numpy(np.logaddexp.reduce(parts, 0))


@pytest.fixture(scope="module")
def points(mixture):
    """From every component, and between them."""
    between = torch.tensor([[0.0, 0.0], [0.3, 0.1], [-0.4, -0.5]], dtype=F64)
    return torch.cat([mixture.sample(40, np.random.default_rng(0)), between])


def test_it_is_the_density_of_the_mixture(process_name, process, exact_denoiser, mixture, points):
    found = log_likelihood(exact_denoiser(process, mixture), points, probes=None)
    error = (found.nats - exact(mixture, points)).abs()
    assert float(error.max()) <= (1e-3 if process_name in TO_NOISE else 0.03)
    assert float(error.mean()) <= (2e-4 if process_name in TO_NOISE else 5e-3)
    assert found.standard_error is None
    assert found.latent.shape == points.shape


def test_what_is_left_is_the_mismatch_of_the_prior(exact_denoiser, mixture, points):
    # On edm the flow ends at σ = 80, where the density is the mixture's own with that noise, not N(0, 80²).
    found = log_likelihood(exact_denoiser(EDM(), mixture), points, probes=None)
    end = 80 * found.latent
    wider = type(mixture)(mixture.weights, mixture.means, (mixture.stds.square() + 80**2).sqrt())
    prior = torch.from_numpy(multivariate_normal(np.zeros(2), 80**2).logpdf(end.numpy()))
    mended = found.nats - prior + exact(wider, end)
    assert float((mended - exact(mixture, points)).abs().max()) <= 1e-3


def test_the_error_of_the_steps_is_of_order_four(exact_denoiser, mixture, points):
    denoiser = exact_denoiser(RectifiedFlow(), mixture)
    levels = [torch.exp(torch.linspace(3, math.log(0.002), n + 1, dtype=F64)) for n in (40, 80, 160)]
    nats = [
        log_likelihood(denoiser, points, times=RectifiedFlow().time_of_log_snr(-2 * level.log()), probes=None).nats
        for level in levels
    ]
    first, second = ((a - b).square().mean().sqrt() for a, b in pairwise(nats))
    assert float(torch.log2(first / second)) == pytest.approx(4.0, abs=0.7)


def test_probes_are_right_within_their_standard_error(exact_denoiser, mixture, points):
    denoiser, noise = exact_denoiser(VPCosine(), mixture), CounterNoise.from_seeds(range(len(points)))
    times = LogisticLogSNR().times(VPCosine(), 10)
    whole = log_likelihood(denoiser, points, times=times, probes=None)
    found = log_likelihood(denoiser, points, times=times, probes=24, noise=noise)
    torch.testing.assert_close(found.latent, whole.latent, rtol=0, atol=1e-12)
    z = (found.nats - whole.nats) / found.standard_error
    assert float(z.abs().max()) < 4.5  # 24 probes: Student's t
    assert 0.4 < float(z.square().mean()) < 2.2
    one = log_likelihood(denoiser, points, times=times, noise=noise)
    assert one.standard_error is None
    assert float((one.nats - whole.nats).abs().max()) > 0  # an estimate, not the trace


def test_a_sample_does_not_depend_on_its_batch(exact_denoiser, mixture, points):
    denoiser, noise = exact_denoiser(VPCosine(), mixture), CounterNoise.from_seeds(range(len(points)))
    times, rows = LogisticLogSNR().times(VPCosine(), 12), torch.tensor([7, 3])
    together = log_likelihood(denoiser, points, times=times, noise=noise)
    alone = log_likelihood(denoiser, points[rows], times=times, noise=noise.select(rows))
    torch.testing.assert_close(alone.nats, together.nats[rows], rtol=0, atol=1e-11)


def test_a_network_in_float32_on_images(gaussian_model):
    # N(0, 0.7² I) of 3 × 4 × 4 numbers; every coordinate alike, so that one probe is the trace itself.
    process, parametrization = VPCosine(), edm.EDM(sigma_data=0.5)

    class Flat(gaussian_model):
        def forward(self, x, c_noise, condition=None):
            return super().forward(x.flatten(1).double(), c_noise.double()).view_as(x).to(x.dtype)

    denoiser = NetworkDenoiser(Network(process, parametrization, Flat(process, parametrization, 0.7)))
    noise = CounterNoise.from_seeds(range(5))
    x = 0.7 * noise.normal("data", 0, torch.empty(5, 3, 4, 4))
    found = log_likelihood(denoiser, x, noise=noise)
    expected = -x.double().square().flatten(1).sum(1) / (2 * 0.49) - 24 * math.log(2 * math.pi * 0.49)
    torch.testing.assert_close(found.nats, expected, rtol=0, atol=5e-3)
    assert found.latent.dtype == torch.float32
    assert not found.nats.requires_grad
    assert found.calls == denoiser.nfe
    # Entropy of N(0, 0.7²) in bits, in steps of 1/128: what 256 levels from −1 to 1 are.
    bits = -expected / (48 * math.log(2)) + 7
    torch.testing.assert_close(found.bits_per_dim(), bits, rtol=0, atol=1e-3)


def test_the_flow_is_the_one_that_samplers_follow(exact_denoiser, mixture, flow):
    # From data at σ/α = 0.05 to 20 and from 20 to 0.05 is the same way.
    start, end = flow
    walk, path = (
        Flow(exact_denoiser(EDM(), mixture), None),
        np.arctan(np.exp(np.linspace(math.log(0.05), math.log(20), 101))),
    )
    w = end[:16] * math.cos(path[0])
    for a, b in pairwise(path):
        w, _ = walk.step(w, float(a), float(b))
    torch.testing.assert_close(w / math.cos(path[-1]), start[:16], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pass noise"),
        ({"probes": 0}, "at least 1, or None"),
        ({"noise": CounterNoise.from_seeds([0])}, "1 rows, and 43 samples"),
        ({"probes": None, "times": torch.tensor([0.1, 0.5])}, "decrease"),
        ({"probes": None, "times": torch.tensor([0.5])}, "decrease"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message, exact_denoiser, mixture, points):
    with pytest.raises(ValueError, match=message):
        log_likelihood(exact_denoiser(EDM(), mixture), points, **options)


def test_a_denoiser_without_derivative_or_numbers_is_refused(exact_denoiser, mixture, points):
    plain = exact_denoiser(EDM(), mixture)

    class Detached:
        process = plain.process

        def __call__(self, x, t):
            return plain(x, t).detach()

    class Broken:
        process = plain.process

        def __call__(self, x, t):
            return torch.where(x[:, :1] > 60, math.nan, plain(x, t))

    with pytest.raises(ValueError, match="without a graph"):
        log_likelihood(Detached(), points, probes=None)
    with pytest.raises(ValueError, match=r"sample \d+ is nan"):
        log_likelihood(Broken(), points, probes=None)
