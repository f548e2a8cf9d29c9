"""The network and the denoiser: coefficients applied in the right precision, conditions and guidance bound to rows."""

from __future__ import annotations

import pytest
import torch
from atlas_solvers_builtin.guidance.classifier_free import ClassifierFree
from atlas_solvers_builtin.guidance.unguided import Unguided
from atlas_solvers_builtin.parametrizations import edm
from atlas_solvers_builtin.parametrizations.v import V
from atlas_solvers_builtin.processes.edm import EDM
from atlas_solvers_builtin.processes.rectified_flow import RectifiedFlow
from torch import nn

from atlas_core.contracts import Condition
from atlas_core.engine.denoiser import NetworkDenoiser
from atlas_core.engine.network import Network
from atlas_core.errors import UsageError

F64 = torch.float64


class Recorder(nn.Module):
    """F = tanh(weight · x) + c_noise + condition; remembers what it was given."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5, dtype=dtype))
        self.seen = []

    def forward(self, x, c_noise, condition=None, *, c_noise_end=None):
        self.seen.append((x, c_noise, condition, c_noise_end))
        out = torch.tanh(self.weight * x) + c_noise.view(-1, *[1] * (x.ndim - 1))
        return out if condition is None else out + condition.vector.mean(1).view(-1, *[1] * (x.ndim - 1))


class Label:
    """A conditioner as small as can be."""

    dropout, widths = 0.1, {"vector": 2}

    def encode(self, inputs):
        return Condition(vector=torch.tensor([[float(i), float(i)] for i in inputs], dtype=F64))

    def null(self, batch):
        return Condition(vector=torch.full((batch, 2), -7.0))


def network(dtype=torch.float32, **options):
    return Network(EDM(), edm.EDM(sigma_data=0.5), Recorder(dtype), **options)


def rows(n=4, dtype=torch.float32):
    return torch.randn(n, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_x0_is_skip_plus_out_times_the_model():
    net, x, t = network(F64), rows(dtype=F64), torch.tensor([0.3, 0.5, 0.7, 1.0], dtype=F64)
    s = (80 * t**7)[:, None, None, None]
    scale = (s**2 + 0.25).sqrt()
    raw = torch.tanh(0.5 * x / scale) + s.log() / 4
    torch.testing.assert_close(net.raw(x, t), raw)
    torch.testing.assert_close(net.x0(x, t), 0.25 / scale**2 * x + s * 0.5 / scale * raw)
    torch.testing.assert_close(net(x, t), net.x0(x, t))


def test_one_time_for_all_rows_and_a_table_of_times_change_nothing():
    net, x = network(F64), rows(dtype=F64)
    times = torch.linspace(0.3, 1, 5, dtype=F64)
    expected = [net.x0(x, t.expand(4)) for t in times]
    for _ in range(2):
        for t, answer in zip(times, expected, strict=True):
            torch.testing.assert_close(net.x0(x, t), answer, rtol=1e-14, atol=1e-14)
        net.tabulate(times)
    torch.testing.assert_close(
        net.x0(x, torch.tensor(0.4567, dtype=F64)), net.x0(x, torch.full((4,), 0.4567, dtype=F64))
    )


def test_the_model_runs_in_its_own_dtype_and_the_answer_has_that_of_x():
    net = network(torch.bfloat16)
    for t in (torch.tensor(0.5, dtype=F64), torch.full((4,), 0.5, dtype=F64)):
        assert net.x0(rows(), t).dtype == torch.float32
        x, c_noise, *_ = net.model.seen[-1]
        assert (x.dtype, c_noise.dtype, c_noise.shape) == (torch.bfloat16, torch.bfloat16, (4,))


def test_the_time_is_not_rounded_before_it_is_used():
    # Near t = 1 float32 cannot tell these apart; the coefficients must.
    a, b = (torch.tensor(t, dtype=F64) for t in (1 - 1e-9, 1 - 2e-9))
    net = Network(RectifiedFlow(), V(), Recorder(F64))
    assert not torch.equal(net.x0(rows(dtype=F64), a), net.x0(rows(dtype=F64), b))


def test_where_a_flow_map_jumps_to_is_passed_only_when_asked():
    net, t = network(), torch.tensor(0.5, dtype=F64)
    net.raw(rows(), t)
    assert net.model.seen[-1][3] is None
    net.raw(rows(), t, t_end=torch.tensor(0.3, dtype=F64))
    torch.testing.assert_close(
        net.model.seen[-1][3], (80 * torch.tensor(0.3).double() ** 7).log().float().expand(4) / 4
    )


def test_a_model_of_the_wrong_shape_is_named():
    class Wrong(nn.Module):
        def forward(self, x, c_noise, condition=None):
            return x[:, 0]

    with pytest.raises(ValueError, match=r"Wrong returned \(4, 2, 2\)"):
        Network(EDM(), V(), Wrong()).x0(rows(), torch.tensor(0.5, dtype=F64))


def test_parameters_of_a_learned_conditioner_are_the_networks():
    class Learned(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(3, 2)

    assert {"conditioner.table.weight", "model.weight"} == set(network(conditioner=Learned()).state_dict())
    assert set(network(conditioner=Label()).state_dict()) == {"model.weight"}


def test_guidance_evaluates_both_halves_in_one_batch():
    net, x, t = network(conditioner=Label()), rows(), torch.tensor(0.5, dtype=F64)
    condition = Label().encode([1, 2, 3, 4])
    denoiser = NetworkDenoiser(net, condition, ClassifierFree(scale=3.0))
    got = denoiser(x, t)
    assert len(net.model.seen) == 1
    assert len(net.model.seen[0][0]) == 8
    cond, null = net.settle(condition), net.settle(Label().null(4))
    d_cond, d_null = net.x0(x, t, cond), net.x0(x, t, null)
    torch.testing.assert_close(got, d_null + 3 * (d_cond - d_null))
    assert (denoiser.nfe, denoiser.forward_passes) == (1, 2)
    torch.testing.assert_close(denoiser(x, t.expand(4)), got)
    denoiser.prepare(torch.tensor([0.6, 0.5], dtype=F64))
    torch.testing.assert_close(denoiser(x, t), got)
    assert (denoiser.nfe, denoiser.forward_passes) == (3, 6)


def test_guidance_sees_the_scales_of_its_time():
    class Spy(Unguided):
        def __call__(self, context, state):
            seen.append((context.alpha, context.sigma, state))
            return context.d_cond, len(seen)

    seen = []
    denoiser, t = NetworkDenoiser(network(), guidance=Spy()), torch.tensor([0.5, 0.6], dtype=F64)
    denoiser(rows(2), t[0])
    denoiser.prepare(t)
    denoiser(rows(2), t[0])
    denoiser(rows(2), t)
    assert seen[0][:2] == pytest.approx((1, 80 * 0.5**7))
    assert seen[1][:2] == seen[0][:2]
    torch.testing.assert_close(seen[2][1].flatten(), (80 * t**7).float())
    assert [s[2] for s in seen] == [None, 1, 2]  # what the last call returned


def test_taking_rows_takes_their_conditions():
    net, x, t = network(conditioner=Label()), rows(), torch.tensor(0.5, dtype=F64)
    whole = NetworkDenoiser(net, Label().encode([1, 2, 3, 4]), ClassifierFree(scale=2.0))
    index = torch.tensor([3, 0, 3])
    torch.testing.assert_close(whole.take(index)(x[index], t), whole(x, t)[index])
    assert whole.nfe == 2  # the rows that were taken count with the whole


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NetworkDenoiser(network(conditioner=Label()), None, ClassifierFree()), "there is none"),
        (lambda: NetworkDenoiser(network(), Label().encode([1]), ClassifierFree()), "no conditioner"),
    ],
)
def test_guidance_without_a_reference_says_what_is_missing(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_guidance_that_wants_a_weak_model_or_keeps_a_state_is_refused_where_it_cannot_work():
    class Auto(Unguided):
        needs, stateful = frozenset({"weak-model"}), False

    class Momentum(Unguided):
        needs, stateful = frozenset(), True

    with pytest.raises(UsageError, match="weak-model"):
        NetworkDenoiser(network(), Label().encode([1]), Auto())
    with pytest.raises(UsageError, match="Momentum keeps a state"):
        NetworkDenoiser(network(), guidance=Momentum()).take(torch.tensor([0]))


def test_conditions_for_other_rows_are_refused():
    with pytest.raises(ValueError, match="4 rows for 1 conditions"):
        NetworkDenoiser(network(), Label().encode([1]))(rows(), torch.tensor(0.5, dtype=F64))


def test_it_follows_its_model_when_that_changes_its_kind_or_is_copied():
    import copy

    network = Network(RectifiedFlow(), V(), Recorder())
    x, t = torch.randn(2, 3), torch.tensor(0.5, dtype=F64)
    for other in (network.double(), copy.deepcopy(network).half().double().float()):
        kind = other.model.weight.dtype
        other.x0(x, t)
        assert other.model.seen[-1][0].dtype == kind
        assert other.settle(Condition(vector=torch.ones(2, 2))).vector.dtype == kind
    assert list(network.state_dict()) == ["model.weight"]
