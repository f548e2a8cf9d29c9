"""Processes against the formulas of their papers, written again here, and against finite differences."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from atlas_solvers_builtin.processes.edm import EDM
from atlas_solvers_builtin.processes.vp_linear import VPLinear

F64 = torch.float64


def inside(process, count=101):
    return torch.linspace(process.t_min, process.t_max, count, dtype=F64)[:-1]


def test_alpha_sigma_and_their_slopes_are_those_of_the_paper(process, process_name, paper_schedule):
    for t in inside(process, 41):
        expected = paper_schedule(process_name, float(process.log_snr(t)))
        got = [float(f(t)) for f in (process.alpha, process.sigma, process.alpha_dot, process.sigma_dot)]
        assert got == pytest.approx(expected, rel=1e-9)


def test_time_is_the_papers_time(process, process_name):
    t = 0.37
    expected = {
        "vp-linear": math.exp(-0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1),  # Song et al. 2021, eq. 33
        "vp-cosine": math.cos(math.pi / 2 * t),
        "rectified-flow": 1 - t,
        "edm": 1.0,
    }[process_name]
    assert float(process.alpha(torch.tensor(t, dtype=F64))) == pytest.approx(expected, rel=1e-12)


def test_edm_is_where_karras_puts_it():
    assert EDM().t_min == pytest.approx(0.220, abs=1e-4)
    ends = EDM().sigma(torch.tensor([0.0, EDM().t_min, 1.0], dtype=F64))
    assert ends.tolist() == pytest.approx([0, 0.002, 80], rel=1e-12)


def test_slopes_are_derivatives(process):
    t, h = inside(process), 1e-6
    t = t[t > 2 * h]
    for f, dot in ((process.alpha, process.alpha_dot), (process.sigma, process.sigma_dot)):
        torch.testing.assert_close((f(t + h) - f(t - h)) / (2 * h), dot(t), rtol=1e-4, atol=1e-6)


def test_log_snr_and_its_inverse_round_trip(process):
    t = torch.linspace(process.t_min, process.t_max, 2001, dtype=F64)
    torch.testing.assert_close(process.time_of_log_snr(process.log_snr(t)), t, rtol=0, atol=1e-10)
    lowest = float(process.log_snr(torch.tensor(process.t_max, dtype=F64)))
    log_snr = torch.linspace(max(lowest, -20.0), 13.0, 2001, dtype=F64)
    torch.testing.assert_close(process.log_snr(process.time_of_log_snr(log_snr)), log_snr, rtol=0, atol=1e-10)
    ratio = process.alpha(t[:-1]).square() / process.sigma(t[:-1]).square()
    torch.testing.assert_close(process.log_snr(t[:-1]), ratio.log(), rtol=1e-9, atol=1e-9)


def test_training_and_grids_stop_at_the_same_noise_on_every_process(process):
    t = torch.tensor(process.t_min, dtype=F64)
    assert float(process.sigma(t) / process.alpha(t)) == pytest.approx(0.002, rel=1e-9)


def test_the_ends_are_data_and_noise(process, process_name):
    ends = torch.tensor([0.0, 1.0], dtype=F64)
    alpha, sigma = process.alpha(ends).tolist(), process.sigma(ends).tolist()
    assert (alpha[0], sigma[0]) == (1, 0)
    assert process.log_snr(ends)[0] == math.inf
    assert alpha[1] == (0 if process_name in ("vp-cosine", "rectified-flow") else pytest.approx(alpha[1]))
    assert sigma[1] == pytest.approx(80 if process_name == "edm" else 1, abs=1e-4)


def test_vp_linear_loses_no_digits_near_the_data():
    t = torch.tensor([1e-12, 1e-8, 1e-4], dtype=F64)
    # σ² = 1 − e^−B = B − B²/2 + …, with B = 0.1 t + 9.95 t²; 1 − α² in float64 would be 0 or noise here.
    b = 0.1 * t + 9.95 * t**2
    torch.testing.assert_close(VPLinear().sigma(t) ** 2, b - b**2 / 2 + b**3 / 6, rtol=1e-14, atol=0)


def test_mix_is_the_interpolant_in_the_dtype_of_the_data(process):
    rng = torch.Generator().manual_seed(0)
    x0, z = (torch.randn(5, 2, 3, generator=rng) for _ in range(2))
    t = torch.linspace(0.1, 0.9, 5, dtype=F64)
    column = (-1, 1, 1)
    expected = process.alpha(t).view(column) * x0.double() + process.sigma(t).view(column) * z.double()
    got = process.mix(x0, z, t)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(process.mix(x0, z, t[2])[2], got[2])


def test_ode_step_moves_along_the_line_through_data_and_noise(process):
    s, t = torch.tensor([1.0, 0.8, 0.3], dtype=F64), torch.tensor([0.6, 0.2, 0.0], dtype=F64)
    keep, pull = process.ode_step(s, t)
    x0, z = 0.7, -1.3
    x_s = process.alpha(s) * x0 + process.sigma(s) * z
    torch.testing.assert_close(keep * x_s + pull * x0, process.alpha(t) * x0 + process.sigma(t) * z)


def test_posterior_is_that_of_ho_et_al(process):
    s = torch.tensor([0.9, 0.7, 0.31, 0.30001], dtype=F64)
    t = torch.tensor([0.5, 0.6, 0.25, 0.3], dtype=F64)
    a, b = process.alpha(s) / process.alpha(t), process.sigma(s)
    beta = b**2 - a**2 * process.sigma(t) ** 2
    keep, pull, std = process.posterior(s, t)
    torch.testing.assert_close(keep, a * process.sigma(t) ** 2 / b**2, rtol=1e-10, atol=0)
    torch.testing.assert_close(pull, process.alpha(t) * beta / b**2, rtol=1e-10, atol=0)
    torch.testing.assert_close(std**2, beta * process.sigma(t) ** 2 / b**2, rtol=1e-10, atol=0)


def test_posterior_leaves_the_marginals_in_place_at_the_ends_too(process):
    s, t = torch.tensor([1.0, 1.0, 0.5], dtype=F64), torch.tensor([0.5, 0.0, 0.0], dtype=F64)
    keep, pull, std = process.posterior(s, t)
    torch.testing.assert_close(keep * process.alpha(s) + pull, process.alpha(t))
    torch.testing.assert_close(keep**2 * process.sigma(s) ** 2 + std**2, process.sigma(t) ** 2)


def test_prior_has_the_deviation_of_the_noise(process):
    unit = torch.ones(3)
    t = torch.tensor(0.9, dtype=F64)
    torch.testing.assert_close(process.prior(unit, 0.9), unit * float(process.sigma(t)))
    torch.testing.assert_close(process.prior(unit), unit * float(process.sigma(torch.tensor(1.0, dtype=F64))))


def test_processes_survive_pickling(process):
    assert pickle.loads(pickle.dumps(process)) == process  # noqa: S301


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: VPLinear(beta_min=0), "beta_min"),
        (lambda: VPLinear(beta_max=0.05), "beta_max"),
        (lambda: EDM(sigma_min=-1), "sigma_min"),
        (lambda: EDM(sigma_max=0.001), "sigma_max"),
        (lambda: EDM(rho=0), "rho"),
    ],
)
def test_a_wrong_setting_is_named(make, field):
    with pytest.raises(ValueError, match=field):
        make()


def test_every_setting_changes_the_process():
    t = torch.tensor(0.5, dtype=F64)
    assert VPLinear(beta_min=0.2).alpha(t) != VPLinear().alpha(t) != VPLinear(beta_max=19).alpha(t)
    assert EDM(sigma_max=100).sigma(t) != EDM().sigma(t) != EDM(rho=3).sigma(t)
    assert EDM(sigma_min=0.01).t_min != EDM().t_min
