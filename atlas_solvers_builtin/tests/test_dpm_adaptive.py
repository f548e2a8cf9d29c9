"""dpm-adaptive: the error it leaves against the exact flow, and that no sample enters the steps of another."""

from __future__ import annotations

import math

import attrs
import numpy as np
import pytest
import torch
from atlas_solvers_builtin.guidance.unguided import Unguided
from atlas_solvers_builtin.parametrizations import edm
from atlas_solvers_builtin.processes.edm import EDM
from atlas_solvers_builtin.samplers.dpm_adaptive import DPMAdaptive
from torch import nn

from atlas_core.engine.denoiser import NetworkDenoiser
from atlas_core.engine.network import Network
from atlas_core.engine.sampling import drain, steps_for
from atlas_core.errors import UsageError

F64 = torch.float64


@attrs.define(eq=False)
class RowDenoiser:
    """The exact denoiser of a mixture, each row at its own time; counts the rows it has seen."""

    process: object
    mixture: object
    rows: int = 0
    parent: RowDenoiser | None = None

    def __call__(self, x, t):
        (self.parent or self).rows += len(x)
        alpha, sigma = (c.expand(len(x))[:, None] for c in (self.process.alpha(t), self.process.sigma(t)))
        weights, means, variance = self.mixture.weights, self.mixture.means, self.mixture.stds.square()
        # x_t of component k ~ N(α μ_k, α² s_k² + σ²), so that nothing is divided by α.
        spread = alpha**2 * variance + sigma**2
        away = x[:, None] - alpha[..., None] * means
        share = (weights.log() - away.square().sum(-1) / (2 * spread) - x.shape[1] / 2 * spread.log()).softmax(1)
        return (share[..., None] * (means + (alpha * variance / spread)[..., None] * away)).sum(1)

    def take(self, index):
        return RowDenoiser(self.process, self.mixture, parent=self.parent or self)


def ends(process):
    return torch.tensor([process.t_max, 0.0], dtype=F64)


def walked(tolerance, denoiser, start, times):
    return drain(DPMAdaptive(tolerance=tolerance).steps(denoiser, start, times))


def test_the_error_falls_with_the_tolerance(process, mixture, flow):
    # From σ/α = 20 to 0.05, where the flow is known to 1e-11.
    start, exact = flow
    times = process.time_of_log_snr(-2 * torch.tensor([20.0, 0.05], dtype=F64).log())
    first, last = process.alpha(times[0]), process.alpha(times[1])
    tolerances, errors, calls = [1e-2, 1e-3, 1e-4, 1e-5], [], []
    for tolerance in tolerances:
        denoiser = RowDenoiser(process, mixture)
        end = walked(tolerance, denoiser, first * start, times) / last
        errors.append(float((end - exact).square().mean().sqrt()))
        calls.append(denoiser.rows / len(start))
    assert all(error <= 2 * tolerance for error, tolerance in zip(errors, tolerances, strict=True)), errors
    slope = np.polyfit(np.log(tolerances), np.log(errors), 1)[0]
    assert slope == pytest.approx(1.0, abs=0.3), errors
    assert calls[0] < 30
    # Order 3: a thousandth of the error at ten times the calls, or so.
    assert calls[-1] < 12 * calls[0]


def test_from_pure_noise_to_data_on_every_process(process, mixture):
    unit = torch.from_numpy(np.random.default_rng(3).standard_normal((64, 2)))
    fine, coarse = (
        walked(tol, RowDenoiser(process, mixture), process.prior(unit), ends(process)) for tol in (1e-5, 1e-3)
    )
    assert float((fine - coarse).square().mean().sqrt()) < 1e-3
    centre = (mixture.weights[:, None] * mixture.means).sum(0)
    spread = (mixture.weights[:, None] * (mixture.means.square() + mixture.stds.square()[:, None])).sum(0) - centre**2
    standard = (spread / 64).sqrt()
    assert bool(((fine.mean(0) - centre).abs() < 3 * standard).all())


def test_a_sample_does_not_depend_on_its_batch(process, mixture):
    unit = torch.from_numpy(np.random.default_rng(3).standard_normal((8, 2)))
    together = walked(1e-3, RowDenoiser(process, mixture), process.prior(unit), ends(process))
    for rows in ([5, 2], [0], [7, 1, 3]):
        alone = walked(1e-3, RowDenoiser(process, mixture), process.prior(unit[rows]), ends(process))
        torch.testing.assert_close(alone, together[rows], rtol=0, atol=1e-12)


def test_a_hard_sample_costs_an_easy_one_no_calls(mixture):
    process, unit = EDM(), torch.from_numpy(np.random.default_rng(3).standard_normal((8, 2)))
    together = RowDenoiser(process, mixture)
    walked(1e-3, together, process.prior(unit), ends(process))
    alone = []
    for row in range(8):
        denoiser = RowDenoiser(process, mixture)
        walked(1e-3, denoiser, process.prior(unit[row : row + 1]), ends(process))
        alone.append(denoiser.rows)
    assert together.rows == sum(alone)
    assert max(alone) > 1.15 * min(alone)  # else there would be nothing to keep apart


def test_stops_on_the_way_change_the_result_by_less_than_the_tolerance(process, mixture):
    unit = torch.from_numpy(np.random.default_rng(3).standard_normal((16, 2)))
    denoiser, start = RowDenoiser(process, mixture), process.prior(unit)
    times = torch.cat([torch.linspace(process.t_max, process.t_min, 9, dtype=F64), torch.zeros(1, dtype=F64)])
    steps = list(DPMAdaptive(tolerance=1e-3).steps(denoiser, start, times))
    assert [step.t for step in steps] == times[1:].tolist()
    assert float((steps[-1].x - walked(1e-3, denoiser, start, ends(process))).square().mean().sqrt()) < 1e-3
    torch.testing.assert_close(steps[-1].x, steps[-1].x0)  # t_min to 0: the state is the prediction
    states = [step.x.clone() for step in steps]
    assert all(torch.equal(step.x, state) for step, state in zip(steps, states, strict=True))
    assert torch.equal(start, process.prior(unit))


def test_float32_reaches_the_tolerance_of_float32(mixture, flow):
    process, (start, exact) = EDM(), flow
    times = process.time_of_log_snr(-2 * torch.tensor([20.0, 0.05], dtype=F64).log())

    class InFloat32(RowDenoiser):
        def __call__(self, x, t):
            assert x.dtype == torch.float32
            return super().__call__(x.double(), t).float()

        def take(self, index):
            return self

    end = walked(1e-4, InFloat32(process, mixture), start.float(), times)
    assert end.dtype == torch.float32
    assert float((end.double() - exact).square().mean().sqrt()) < 2e-4


# ---- what it refuses -------------------------------------------------------------------------------------------------


@attrs.frozen
class Momentum(Unguided):
    stateful = True


class Still(nn.Module):
    def forward(self, x, c_noise, condition=None):
        return torch.zeros_like(x)


def test_a_guidance_with_a_state_is_refused():
    denoiser = NetworkDenoiser(Network(EDM(), edm.EDM(sigma_data=0.5), Still()), guidance=Momentum())
    with pytest.raises(UsageError, match="Momentum keeps a state"):
        walked(1e-2, denoiser, torch.zeros(2, 3), ends(EDM()))


def test_it_has_no_price_that_is_known_before():
    assert DPMAdaptive().nfe(7) is None
    with pytest.raises(UsageError, match="its tolerance"):
        steps_for(DPMAdaptive(), nfe=20)


def test_a_prediction_that_is_no_number_is_named(mixture):
    @attrs.define(eq=False)
    class Broken(RowDenoiser):
        def __call__(self, x, t):
            level = self.process.sigma(t).expand(len(x))[:, None]
            return torch.where((level < 1) & (x[:, :1] > 0), math.nan, super().__call__(x, t))

        def take(self, index):
            return self

    x = torch.tensor([[-80.0, 1.0], [80.0, 1.0]], dtype=F64)
    with pytest.raises(ValueError, match=r"sample 1 of the batch at t = 0\.\d+: the prediction is not finite"):
        walked(1e-2, Broken(EDM(), mixture), x, ends(EDM()))


def test_a_tolerance_that_cannot_be_met_is_said(mixture):
    @attrs.define(eq=False)
    class Rough(RowDenoiser):
        def __call__(self, x, t):
            return torch.sin(1e9 * t).expand(len(x))[:, None].expand_as(x)

        def take(self, index):
            return self

    with pytest.raises(ValueError, match=r"no step meets the tolerance 1e-09: raise it"):
        walked(1e-9, Rough(EDM(), mixture), torch.ones(1, 2, dtype=F64), ends(EDM()))
    for wrong in (0.0, -1.0, 1.0):
        with pytest.raises(ValueError, match="tolerance"):
            DPMAdaptive(tolerance=wrong)
