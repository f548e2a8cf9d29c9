"""What guidance costs and sees: one batch of one network, no reference where none is wanted, a weak model beside it."""

from __future__ import annotations

import pytest
import torch
from atlas_solvers_builtin.guidance.autoguidance import Autoguidance
from atlas_solvers_builtin.guidance.classifier_free import ClassifierFree
from atlas_solvers_builtin.guidance.clip import Clip
from atlas_solvers_builtin.guidance.interval import ClassifierFreeInterval
from atlas_solvers_builtin.guidance.projected import AdaptiveProjected
from atlas_solvers_builtin.parametrizations import edm
from atlas_solvers_builtin.processes.edm import EDM
from atlas_solvers_builtin.samplers.euler import Euler
from torch import nn

from atlas_core.contracts import Condition
from atlas_core.engine.denoiser import NetworkDenoiser
from atlas_core.engine.network import Network
from atlas_core.engine.noise import CounterNoise
from atlas_core.engine.sampling import sample_steps
from atlas_core.errors import UsageError

F64 = torch.float64


class Affine(nn.Module):
    """F = gain · tanh(x) + c_noise + condition + c_noise_end; counts the rows of each pass."""

    def __init__(self, gain=0.5):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain, dtype=F64))
        self.rows = []

    def forward(self, x, c_noise, condition=None, *, c_noise_end=None):
        self.rows.append(len(x))
        out = self.gain * torch.tanh(x) + c_noise[:, None]
        out = out if condition is None else out + condition.vector
        return out if c_noise_end is None else out + c_noise_end[:, None]


class Label:
    dropout, widths = 0.1, {"vector": 1}

    def encode(self, inputs):
        return Condition(vector=torch.tensor(inputs, dtype=F64)[:, None])

    def null(self, batch):
        return Condition(vector=torch.full((batch, 1), -7.0, dtype=F64))


def network(gain=0.5, conditioner=None):
    return Network(EDM(), edm.EDM(sigma_data=0.5), Affine(gain), conditioner)


def rows(n=4):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=F64)


def time(level):
    return EDM().time_of_log_snr(-2 * torch.tensor(level, dtype=F64).log())


def test_outside_the_interval_there_is_one_forward_pass_of_the_rows_alone():
    net, x = network(conditioner=Label()), rows()
    condition = Label().encode([1, 2, 3, 4])
    denoiser = NetworkDenoiser(net, condition, ClassifierFreeInterval(scale=3.0, low=0.3, high=2.0))
    full = NetworkDenoiser(net, condition, ClassifierFree(scale=3.0))
    levels = [5.0, 1.0, 0.1]
    for prepared in (False, True):
        if prepared:
            denoiser.prepare(torch.stack([time(level) for level in levels]))
        net.model.rows.clear()
        for level in levels:
            got = denoiser(x, time(level))
            inside = level == 1.0
            assert net.model.rows.pop() == (8 if inside else 4)
            expected = full(x, time(level)) if inside else net.x0(x, time(level), condition)
            assert torch.equal(got, expected)
            net.model.rows.clear()
    assert (denoiser.nfe, denoiser.forward_passes) == (6, 8)


def test_rows_of_different_times_are_guided_each_by_its_own():
    net, x = network(conditioner=Label()), rows()
    condition = Label().encode([1, 2, 3, 4])
    guidance = ClassifierFreeInterval(scale=3.0, low=0.3, high=2.0)
    times = torch.stack([time(level) for level in (5.0, 1.0, 0.1, 0.5)])
    together = NetworkDenoiser(net, condition, guidance)(x, times)
    for i in range(4):
        index = torch.tensor([i])
        alone = NetworkDenoiser(net, condition.take(index), guidance)(x[index], times[i])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-13)


def test_a_scale_of_one_costs_nothing_and_changes_no_bit():
    net, x, t = network(conditioner=Label()), rows(), time(1.0)
    condition = Label().encode([1, 2, 3, 4])
    denoiser = NetworkDenoiser(net, condition, ClassifierFree(scale=1.0))
    assert torch.equal(denoiser(x, t), net.x0(x, t, condition))
    assert denoiser.forward_passes == 1


def test_a_weak_model_is_told_its_own_condition_and_counted():
    strong, weak = network(0.5, Label()), network(0.2, Label())
    x, t = rows(), time(1.0)
    told, weakly = Label().encode([1, 2, 3, 4]), Label().encode([10, 20, 30, 40])
    reference = NetworkDenoiser(weak, weakly)
    for guidance in (Autoguidance(scale=3.0), Clip(limits=(-1e6, 1e6), guidance=Autoguidance(scale=3.0))):
        denoiser = NetworkDenoiser(strong, told, guidance, weak=reference)
        expected = weak.x0(x, t, weakly) + 3 * (strong.x0(x, t, told) - weak.x0(x, t, weakly))
        strong.model.rows.clear(), weak.model.rows.clear()
        torch.testing.assert_close(denoiser(x, t), expected)
        assert (strong.model.rows, weak.model.rows) == ([4], [4])
        assert (denoiser.nfe, denoiser.forward_passes) == (1, 2)
        denoiser.prepare(t[None])
        torch.testing.assert_close(denoiser(x, t), expected)
        index = torch.tensor([3, 0, 3])
        torch.testing.assert_close(denoiser.take(index)(x[index], t), expected[index])


def test_a_weak_model_guides_without_conditions():
    strong, weak, x, t = network(0.5), network(0.2), rows(), time(1.0)
    denoiser = NetworkDenoiser(strong, guidance=Autoguidance(scale=2.0), weak=NetworkDenoiser(weak))
    torch.testing.assert_close(denoiser(x, t), 2 * strong.x0(x, t) - weak.x0(x, t))


def test_the_end_of_a_step_reaches_both_halves():
    net, x, t, end = network(conditioner=Label()), rows(), time(1.0), time(0.4)
    condition, null = Label().encode([1, 2, 3, 4]), Label().null(4)
    denoiser = NetworkDenoiser(net, condition, ClassifierFree(scale=2.0))
    expected = 2 * net.x0(x, t, condition, t_end=end) - net.x0(x, t, null, t_end=end)
    torch.testing.assert_close(denoiser(x, t, t_end=end), expected)
    torch.testing.assert_close(denoiser(x, t.expand(4), t_end=end.expand(4)), expected)
    assert not torch.allclose(denoiser(x, t), expected)
    torch.testing.assert_close(NetworkDenoiser(net, condition)(x, t, t_end=end), net.x0(x, t, condition, t_end=end))


def test_momentum_carries_from_call_to_call_and_forbids_to_take_rows():
    net, x = network(conditioner=Label()), rows()
    condition = Label().encode([1, 2, 3, 4])
    denoiser = NetworkDenoiser(net, condition, AdaptiveProjected(scale=3.0, eta=1.0, momentum=0.5))
    first, second = denoiser(x, time(1.0)), denoiser(x, time(1.0))
    d_cond = net.x0(x, time(1.0), condition)
    torch.testing.assert_close(second - d_cond, 1.5 * (first - d_cond))
    assert denoiser.stateful
    with pytest.raises(UsageError, match="AdaptiveProjected keeps a state"):
        denoiser.take(torch.tensor([0]))
    still = NetworkDenoiser(net, condition, AdaptiveProjected(scale=3.0, momentum=0.0))
    assert not still.stateful
    assert still.take(torch.tensor([2]))(x[2:3], time(1.0)).shape == (1, 3)


def test_two_references_at_once_are_refused():
    class Both(Autoguidance):
        needs = frozenset({"unconditional", "weak-model"})

    with pytest.raises(UsageError, match="two references"):
        NetworkDenoiser(network(), guidance=Both())
    with pytest.raises(UsageError, match="none was given"):
        NetworkDenoiser(network(), guidance=Autoguidance())


def test_an_adaptive_sampler_refuses_a_state_that_it_cannot_take_back():
    class Adaptive(Euler):
        def nfe(self, steps):
            return None

    net, times, noise = network(conditioner=Label()), torch.tensor([1.0, 0.0], dtype=F64), CounterNoise.from_seeds([0])
    condition = Label().encode([1])
    moving = NetworkDenoiser(net, condition, AdaptiveProjected(scale=3.0))
    with pytest.raises(UsageError, match="Adaptive takes steps back, and guidance keeps a state"):
        next(sample_steps(Adaptive(), moving, times, noise, (3,), F64))
    still = NetworkDenoiser(net, condition, AdaptiveProjected(scale=3.0, momentum=0.0))
    assert len(list(sample_steps(Adaptive(), still, times, noise, (3,), F64))) == 1
    assert len(list(sample_steps(Euler(), moving, times, noise, (3,), F64))) == 1
