"""Parametrizations against the network outputs of their papers, which are written in conftest.py without any c_skip."""

from __future__ import annotations

import math

import pytest
import torch
from atlas_solvers_builtin.parametrizations.edm import EDM
from atlas_solvers_builtin.parametrizations.eps import Eps
from atlas_solvers_builtin.parametrizations.velocity import Velocity
from atlas_solvers_builtin.processes import edm as edm_process
from atlas_solvers_builtin.processes.rectified_flow import RectifiedFlow
from atlas_solvers_builtin.processes.vp_cosine import VPCosine

from atlas_core.engine.network import Network

F64 = torch.float64
STARTS_LATE = {("eps", "vp-cosine"), ("eps", "rectified-flow")}


def test_the_network_speaks_of_clean_data(
    process_name, parametrization_name, process, parametrization, exact_model, mixture
):
    network = Network(process, parametrization, exact_model(process_name, parametrization_name))
    y = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    for level in (0.01, 0.1, 1.0, 10.0, 60.0):
        t = process.time_of_log_snr(torch.tensor(-2 * math.log(level), dtype=F64))
        x = process.alpha(t) * y * (1 + level)
        expected = mixture.denoise(x / process.alpha(t), level)
        torch.testing.assert_close(network.x0(x, t), expected, rtol=1e-9, atol=1e-9)


def latest(process, parametrization):
    return parametrization.t_max(process) if hasattr(parametrization, "t_max") else process.t_max


def test_every_pair_is_finite_wherever_sampling_goes(process, parametrization, process_name, parametrization_name):
    end = latest(process, parametrization)
    assert (end < 1) == ((parametrization_name, process_name) in STARTS_LATE)
    t = torch.cat([torch.linspace(process.t_min, end, 500, dtype=F64), torch.zeros(1, dtype=F64)])
    for c in parametrization.coefficients(process, t):
        assert c.shape == t.shape
        assert c.dtype == F64
        assert bool(c.isfinite().all())
    alone = parametrization.coefficients(process, t[250])
    together = [c[250] for c in parametrization.coefficients(process, t)]
    assert [float(c) for c in alone] == pytest.approx([float(c) for c in together], rel=1e-14)


def test_without_noise_the_input_is_the_answer(process, parametrization):
    _, skip, out, _ = parametrization.coefficients(process, torch.tensor(0.0, dtype=F64))
    assert (float(skip), float(out)) == (1, 0)


def test_the_network_sees_the_noise_level(process, parametrization):
    t = torch.linspace(process.t_min, latest(process, parametrization), 300, dtype=F64)[:-1]
    c_noise = parametrization.coefficients(process, t)[3]
    inside = process.log_snr(t).abs() < 16
    assert bool((c_noise[inside].diff() > 0).all())
    assert float(c_noise.abs().max()) <= 2
    if isinstance(process, edm_process.EDM):
        torch.testing.assert_close(c_noise, process.sigma(t).log() / 4)  # Karras et al., table 1


def test_the_network_sees_an_input_of_order_one(process, parametrization):
    t = torch.linspace(process.t_min, latest(process, parametrization), 300, dtype=F64)
    c_in = parametrization.coefficients(process, t)[0]
    for data in (0.5, 1.0):
        spread = c_in * (process.alpha(t) ** 2 * data**2 + process.sigma(t) ** 2).sqrt()
        assert float(spread.min()) > 0.3
        assert float(spread.max()) < 1.5


def test_edm_on_edm_is_the_table_of_karras_et_al():
    t, d = torch.linspace(0.25, 1, 50, dtype=F64), 0.5
    s = 80 * t**7
    c_in, skip, out, _ = EDM(sigma_data=d).coefficients(edm_process.EDM(), t)
    torch.testing.assert_close(c_in, 1 / (s**2 + d**2).sqrt())
    torch.testing.assert_close(skip, d**2 / (s**2 + d**2))
    torch.testing.assert_close(out, s * d / (s**2 + d**2).sqrt())


def test_velocity_on_rectified_flow_is_noise_minus_data():
    t = torch.tensor(0.3, dtype=F64)
    x0, z = torch.tensor([0.4], dtype=F64), torch.tensor([-1.1], dtype=F64)
    _, skip, out, _ = Velocity().coefficients(RectifiedFlow(), t)
    torch.testing.assert_close(skip * (0.7 * x0 + 0.3 * z) + out * (z - x0), x0)


def test_velocity_tells_the_network_the_time_where_it_is_asked_to(process):
    t = torch.linspace(process.t_min, process.t_max, 9, dtype=F64)
    told, usual = (Velocity(level=level).coefficients(process, t) for level in ("time", "log-snr"))
    torch.testing.assert_close(told[3], t / 4)
    torch.testing.assert_close(usual[3], -process.log_snr(t).clamp(-16, 16) / 8)
    assert all(torch.equal(one, other) for one, other in zip(told[:3], usual[:3], strict=True))
    with pytest.raises(ValueError, match="level"):
        Velocity(level="sigma")


@pytest.mark.parametrize("process", [VPCosine(), RectifiedFlow()], ids=["vp-cosine", "rectified-flow"])
def test_eps_says_where_to_start_when_there_is_no_signal_to_divide_by(process):
    with pytest.raises(ValueError, match=r"eps divides by alpha.*start at t <= 0\.99"):
        Eps().coefficients(process, torch.tensor([0.5, 1.0], dtype=F64))


def test_edm_needs_the_deviation_of_the_data():
    with pytest.raises(ValueError, match="sigma_data"):
        EDM(sigma_data=0.0)
    with pytest.raises(TypeError, match="sigma_data"):
        EDM()
