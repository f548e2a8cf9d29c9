"""Grids against the formulas they are named after, and the contract on every process."""

from __future__ import annotations

import math

import pytest
import torch
from atlas_solvers_builtin.grids.exponential import Exponential
from atlas_solvers_builtin.grids.karras import Karras
from atlas_solvers_builtin.grids.logistic_log_snr import LogisticLogSNR
from atlas_solvers_builtin.grids.uniform import Uniform
from atlas_solvers_builtin.processes.edm import EDM

F64 = torch.float64
GRIDS = {"exponential": Exponential(), "karras": Karras(), "uniform": Uniform(), "logistic-log-snr": LogisticLogSNR()}


def levels(process, times):
    return process.sigma(times) / process.alpha(times)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 20, 1000])
def test_times_fall_from_the_noise_to_the_data(grid, steps, process):
    times = grid.times(process, steps)
    assert times.shape == (steps + 1,)
    assert times.dtype == F64
    assert times.device.type == "cpu"
    assert bool((times.diff() < 0).all())
    assert float(times[0]) == process.t_max
    assert float(times[-1]) == 0
    assert float(times[-2]) >= process.t_min * (1 - 1e-12)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_grid_without_steps_is_refused(grid):
    with pytest.raises(ValueError, match="at least one step"):
        grid.times(EDM(), 0)


def test_karras_is_equation_5(process):
    n, rho = 18, 7
    high, low = 80 ** (1 / rho), 0.002 ** (1 / rho)
    expected = [(high + i / (n - 1) * (low - high)) ** rho for i in range(n)]
    got = levels(process, Karras().times(process, n))[:-1].tolist()
    assert got[1:] == pytest.approx(expected[1:], rel=1e-9)
    assert got[0] >= expected[0] * (1 - 1e-12)  # where the process itself ends


def test_exponential_divides_the_level_by_one_factor(process):
    got = levels(process, Exponential().times(process, 9))[:-1].log()
    expected = torch.linspace(math.log(80), math.log(0.002), 9, dtype=F64)
    torch.testing.assert_close(got[1:], expected[1:], rtol=1e-9, atol=0)
    assert not torch.equal(Exponential(sigma_max=40).times(EDM(), 9), Exponential().times(EDM(), 9))


def test_uniform_steps_are_even_and_on_edm_those_of_karras():
    from atlas_solvers_builtin.processes.rectified_flow import RectifiedFlow

    torch.testing.assert_close(Uniform().times(RectifiedFlow(), 8), torch.linspace(1, 0, 9, dtype=F64))
    torch.testing.assert_close(Uniform().times(EDM(), 18), Karras().times(EDM(), 18))


@pytest.mark.parametrize(("n", "center", "scale"), [(20, -1.4 + 6.5 / 20, 1.12), (4, -0.1, 1.024), (80, -1.31875, 1.3)])
def test_logistic_steps_are_even_in_a_logistic_function_of_the_level(process, n, center, scale):
    got = levels(process, LogisticLogSNR().times(process, n))[:-1].log()
    u = 1 / (1 + torch.exp(-(got - center) / scale))
    torch.testing.assert_close(u[1:].diff(), u[1:].diff()[0].expand(n - 2), rtol=1e-6, atol=0)
    one = 1 / (1 + math.exp(-(math.log(80) - center) / scale))
    assert float(u[1]) == pytest.approx(one + float(u[2] - u[1]), rel=1e-7)


@pytest.mark.parametrize(("n", "last"), [(2, 11 / (10 + 2**2.4)), (10, 11 / (10 + 10**2.4)), (1000, 0.002)])
def test_logistic_ends_near_the_data_but_not_beyond_where_networks_are_trained(n, last):
    times = LogisticLogSNR().times(EDM(), n)
    assert float(EDM().sigma(times[-2])) == pytest.approx(last, rel=1e-9)


def test_every_setting_moves_the_times():
    for changed in (Karras(rho=5), Karras(sigma_max=40), LogisticLogSNR(), LogisticLogSNR(center=0)):
        assert not torch.equal(changed.times(EDM(), 10), Karras().times(EDM(), 10))
    for changed in (LogisticLogSNR(center=0), LogisticLogSNR(scale=2), LogisticLogSNR(sigma_max=40)):
        assert not torch.equal(changed.times(EDM(), 10), LogisticLogSNR().times(EDM(), 10))


@pytest.mark.parametrize("make", [lambda: Karras(rho=0), lambda: LogisticLogSNR(scale=-1)])
def test_a_wrong_setting_is_named(make):
    with pytest.raises(ValueError, match=r"rho|scale"):
        make()
