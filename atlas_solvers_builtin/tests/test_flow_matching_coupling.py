"""Couplings in training: the law of the pairs, what they leave of the loss, and noise that stays N(0, I) in a class."""

from __future__ import annotations

import math
import random

import attrs
import numpy as np
import pytest
import torch
from atlas_kernels_builtin.kernels.gaussian import Gaussian
from atlas_solvers_builtin.objectives.flow_matching import FlowMatching
from atlas_solvers_builtin.objectives.pairing import draw_permutation
from atlas_solvers_builtin.parametrizations.velocity import Velocity
from atlas_solvers_builtin.processes.rectified_flow import RectifiedFlow
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn
from atlas_solvers_builtin.transport.exact.exact import Exact
from scipy import stats
from torch import nn

from atlas_core.contracts import Batch, Condition, CoupledObjective
from atlas_core.engine.network import Network
from atlas_core.engine.noise import CounterNoise

F64 = torch.float64


def noise_of(rows, seed=0):
    return CounterNoise.for_training(seed, torch.arange(rows))


def doubly_stochastic(n, spread, seed=0):
    matrix = np.exp(spread * np.random.default_rng(seed).standard_normal((n, n)))
    for _ in range(500):
        matrix /= matrix.sum(0)
        matrix /= matrix.sum(1, keepdims=True)
    return torch.from_numpy(matrix)


# ---- the law of the pairs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "spread"), [(2, 0.5), (5, 1.0), (7, 3.0)])
def test_each_pair_is_drawn_as_often_as_the_plan_says(n, spread):
    """Frequencies of 600 draws, within 4.5 binomial standard errors of n P_ij."""
    matrix = doubly_stochastic(n, spread)
    counts, draws = torch.zeros(n, n), 600
    for step in range(draws):
        pairs = draw_permutation(matrix / n, noise_of(n), step)
        assert sorted(pairs.tolist()) == list(range(n))
        counts[torch.arange(n), pairs] += 1
    deviation = (matrix * (1 - matrix) / draws).sqrt() + 1 / draws
    assert float(((counts / draws - matrix) / deviation).abs().max()) < 4.5


def test_two_pairs_of_one_draw_are_not_the_same_coin():
    """Of two independent pairs of rows, each swapped or not, all four ways are drawn a quarter of the time."""
    half = torch.full((2, 2), 0.5, dtype=F64)
    plan = torch.block_diag(half, half) / 4
    drawn = [tuple(draw_permutation(plan, noise_of(4), step).tolist()) for step in range(400)]
    found = [drawn.count(way) for way in [(0, 1, 2, 3), (0, 1, 3, 2), (1, 0, 2, 3), (1, 0, 3, 2)]]
    assert sum(found) == 400
    assert stats.chisquare(found).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("n", [1, 2, 3, 50, 127])
def test_a_permutation_is_followed_to_the_letter(n, dtype):
    permutation = torch.from_numpy(np.random.default_rng(n).permutation(n))
    plan = torch.zeros(n, n, dtype=dtype)
    plan[torch.arange(n), permutation] = 1 / n
    for step in range(5):
        assert torch.equal(draw_permutation(plan, noise_of(n), step), permutation)


def test_marginals_are_exact_whatever_the_plan_is_like():
    """An iteration that was stopped early, in float32, leaves plans whose marginals are off."""
    for seed in range(20):
        plan = torch.rand(40, 40, generator=torch.Generator().manual_seed(seed)) ** 8
        assert sorted(draw_permutation(plan, noise_of(40), seed).tolist()) == list(range(40))


def test_a_plan_that_is_none_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        draw_permutation(torch.full((3, 3), torch.nan), noise_of(3), 0)
    with pytest.raises(ValueError, match="row that is empty"):
        draw_permutation(torch.tensor([[0.0, 0.0], [0.5, 0.5]]), noise_of(2), 0)
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        draw_permutation(torch.full((3, 4), 1 / 12), noise_of(3), 0)


# ---- in the objective --------------------------------------------------------------------------------------


def batch_of(x, noise, objective, condition=None, step=0):
    batch = Batch(x=x, condition=condition, index=torch.arange(len(x)), step=step)
    return attrs.evolve(batch, source=objective.source(batch, noise))


def test_exact_pairs_on_a_line_are_in_order():
    objective, noise = FlowMatching(coupling=Exact()), noise_of(200)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((200, 1)))
    batch = batch_of(x, noise, objective)
    paired = batch.source[objective.pairs(batch, noise)]
    assert torch.equal(x[:, 0].argsort(), paired[:, 0].argsort())
    assert torch.equal(paired.sort(0).values, batch.source.sort(0).values)


class Line(nn.Module):
    """v = c(t) x: the best velocity for a Gaussian pair (x₀, z) with deviations s, 1 and a covariance."""

    def __init__(self, std, covariance):
        super().__init__()
        self.std, self.covariance = std, covariance

    def moments(self, t):
        """Var v, Cov(v, x_t), Var x_t of v = z − x₀ and x_t = (1 − t) x₀ + t z."""
        s2, c = self.std**2, self.covariance
        return 1 + s2 - 2 * c, t * (1 - c) + (1 - t) * (c - s2), (1 - t) ** 2 * s2 + t**2 + 2 * t * (1 - t) * c

    def forward(self, x, c_noise, condition=None):
        _, across, spread = self.moments(RectifiedFlow().time_of_log_snr(-8 * c_noise.double())[:, None])
        return (across / spread).to(x) * x


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_the_loss_floor_of_an_entropic_coupling_is_the_closed_form(epsilon):
    """Entropic plans between Gaussians are Gaussian, with c² + εc = s² for the covariance c (cost |x − z|²/2; Janati et
    al. 2020): the floor is Var(v | x_t). Four steps of 512 points, within 4 % and three standard errors."""
    std, rows = 0.6, 512
    covariance = (-epsilon + math.sqrt(epsilon**2 + 4 * std**2)) / 2
    model = Line(std, covariance)
    network = Network(RectifiedFlow(), Velocity(), model)
    objective = FlowMatching(coupling=Sinkhorn(kernel=Gaussian(), epsilon=epsilon, tolerance=1e-3))
    losses, costs = [], []
    for step in range(4):
        noise = CounterNoise.for_training(step, torch.arange(rows))
        x = std * noise.normal("data", 0, torch.empty(rows, 1, dtype=F64))
        output = objective.loss({"denoiser": network}, Batch(x=x, index=torch.arange(rows), step=step), noise)
        losses.append(output.per_sample)
        costs.append(output.logs["pair_cost"])
    t = torch.linspace(RectifiedFlow.t_min, 1, 4001, dtype=F64)
    variance, across, spread = model.moments(t)
    floor = float((variance - across**2 / spread).mean())
    loss = torch.cat(losses)
    error = 3 * float(loss.std()) / math.sqrt(len(loss))
    assert abs(float(loss.mean()) - floor) < error + 0.04 * floor
    cost = torch.cat(costs)
    assert float(cost.mean()) == pytest.approx(1 + std**2 - 2 * covariance, rel=0.1)
    independent = Line(std, 0.0).moments(t)
    assert floor < 0.65 * float((independent[0] - independent[1] ** 2 / independent[2]).mean())


@pytest.mark.parametrize("solver", [Sinkhorn(epsilon=0.05), Exact()], ids=["sinkhorn", "exact"])
def test_noise_stays_standard_normal_within_a_class_if_asked(solver):
    """Two classes at ±1.5: coupled as one, each gets the noise of its side; within classes, mean 0 and variance 1."""
    rows, steps = 64, 20
    labels = [row % 2 for row in range(rows)]
    sides = torch.tensor(labels)
    x = (3.0 * sides - 1.5)[:, None] + 0.1 * torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))
    for within in (True, False):
        objective = FlowMatching(coupling=solver, within_condition=within)
        drawn = []
        for step in range(steps):
            noise = CounterNoise.for_training(1, torch.arange(rows) + rows * step)
            batch = batch_of(x, noise, objective, condition=labels, step=step)
            pairs = objective.pairs(batch, noise)
            assert sorted(pairs.tolist()) == list(range(rows))
            drawn.append(batch.source[pairs])
        of_one = torch.stack(drawn)[:, sides == 1]
        mean = of_one.mean((0, 1)) * math.sqrt(of_one[..., 0].numel())  # in standard errors
        if within:
            assert float(mean.abs().max()) < 4
            assert stats.kstest(of_one.flatten().numpy(), "norm").pvalue > 1e-3
            # … and they are still coupled: noise above the middle goes to data above it.
            means = [float(torch.corrcoef(torch.stack([z[sides == 1, 1], x[sides == 1, 1]]))[0, 1]) for z in drawn]
            assert np.mean(means) > 0.3
        else:
            assert float(mean.abs().max()) > 10


def test_a_loss_pairs_its_batch_as_the_engine_does():
    objective, noise = FlowMatching(coupling=Sinkhorn()), noise_of(32)
    assert isinstance(objective, CoupledObjective)
    assert objective.couples_batch
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(0))
    network = Network(RectifiedFlow(), Velocity(), Line(1.0, 0.0))
    batch = batch_of(x, noise, objective, step=7)
    engine = attrs.evolve(batch, source=batch.source[objective.pairs(batch, noise)])
    alone = attrs.evolve(batch, source=None)
    losses = [objective.loss({"denoiser": network}, b, noise).per_sample for b in (engine, alone, batch)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


def test_images_are_points_to_a_kernel_of_points_and_images_to_one_of_images():
    @attrs.frozen
    class Middle:
        """Sees images, and of them one pixel: pairs are in its order."""

        has_log = True
        item_ndim = 3

        def log_kernel(self, x, y):
            return -((x[:, None, 0, 1, 1] - y[None, :, 0, 1, 1]) ** 2)

    noise = noise_of(24)
    images = torch.randn(24, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    exact = FlowMatching(coupling=Exact())
    flat, shaped = (exact.pairs(batch_of(x, noise, exact), noise) for x in (images.flatten(1), images))
    assert torch.equal(flat, shaped)
    middle = FlowMatching(coupling=Exact(kernel=Middle()))
    batch = batch_of(images, noise, middle)
    paired = batch.source[middle.pairs(batch, noise)]
    assert torch.equal(images[:, 0, 1, 1].argsort(), paired[:, 0, 1, 1].argsort())


def test_pairs_come_from_keys_alone():
    objective = FlowMatching(coupling=Sinkhorn(epsilon=2.0))
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    states = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    drawn = [
        objective.pairs(batch_of(x, noise_of(40, seed), objective, step=step), noise_of(40, seed))
        for seed, step in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[3])
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()


def test_a_source_of_its_own_is_coupled_with_the_data():
    objective, noise = FlowMatching(coupling=Exact()), noise_of(30)
    x = torch.randn(30, 1, generator=torch.Generator().manual_seed(0))
    batch = Batch(x=x, source=x.flip(0) + 5, step=0)
    assert torch.equal(objective.source(batch, noise), batch.source)
    assert torch.equal(objective.pairs(batch, noise), torch.arange(30).flip(0))


def test_labels_are_needed_where_classes_are_kept_apart():
    objective, noise = FlowMatching(coupling=Exact(), within_condition=True), noise_of(4)
    x = torch.zeros(4, 2)
    for conditions in (None, Condition(vector=torch.zeros(4, 1)), [0.1, 0.2, 0.3, 0.4], [0, 1]):
        with pytest.raises(ValueError, match="within_condition needs the raw conditions of 4 rows"):
            objective.pairs(batch_of(x, noise, objective, condition=conditions), noise)
    for conditions in (["a", "b", "a", "b"], torch.tensor([0, 1, 0, 1]), [None, 1, None, 1]):
        pairs = objective.pairs(batch_of(x, noise, objective, condition=conditions), noise)
        assert pairs.remainder(2).tolist() == [0, 1, 0, 1]


def test_coupling_across_the_classes_of_a_conditional_model_is_warned_of():
    noise, x = noise_of(4), torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    network = Network(RectifiedFlow(), Velocity(), Line(1.0, 0.0))
    batch = Batch(x=x, condition=Condition(vector=torch.zeros(4, 1)), step=0)
    with pytest.warns(RuntimeWarning, match="within_condition = true"):
        FlowMatching(coupling=Exact()).loss({"denoiser": network}, batch, noise)
