"""Derivatives where the unit of the cost is the mean cost itself: against finite differences of whole solves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn
from atlas_solvers_builtin.transport.divergence.divergence import SinkhornDivergence
from atlas_solvers_builtin.transport.exact.exact import Exact
from atlas_solvers_builtin.transport.low_rank.low_rank import LowRank
from atlas_solvers_builtin.transport.unbalanced.unbalanced import SinkhornUnbalanced

from atlas_kernels_builtin import Gaussian, Product, SquaredEuclidean, Sum

N, M = 9, 8
MEAN = SquaredEuclidean()
TIGHT = {"epsilon": 0.3, "tolerance": 1e-12}
ONE_PAIR = [SquaredEuclidean(half=True), Gaussian(bandwidth=2.0)]

VALUES = {
    "sinkhorn": Sinkhorn(kernel=MEAN, **TIGHT),
    "default-epsilon": Sinkhorn(kernel=MEAN, tolerance=1e-12),
    "divergence": SinkhornDivergence(kernel=MEAN, **TIGHT),
    "unbalanced": SinkhornUnbalanced(kernel=MEAN, rho=0.7, **TIGHT),
    "unbalanced-divergence": SinkhornDivergence(kernel=MEAN, rho=0.7, **TIGHT),
    "product": Sinkhorn(kernel=Product(kernels=ONE_PAIR), **TIGHT),
    "sum": Sinkhorn(kernel=Sum(kernels=ONE_PAIR), **TIGHT),
    "exact": Exact(kernel=MEAN),
}


def normal(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def arguments(*, batch=()):
    """x, y, a and b: weights of mass 1; with a batch, x is shared by its problems."""
    a, b = (torch.softmax(0.5 * normal(size, seed=size), 0) for size in (N, M))
    return normal(N, 2), normal(*batch, M, 2, seed=1) + 0.5, a, b


def check(function, values, *, rel=1e-6):
    """d function along a direction of each argument: by autograd, and by differences of sixth order."""
    attached = [value.clone().requires_grad_() for value in values]
    gradients = torch.autograd.grad(function(*attached), attached)
    ways = [normal(*value.shape, seed=20 + index) for index, value in enumerate(values)]
    ways[2:] = [0.1 * (way - way.mean()) for way in ways[2:]]  # mass is kept
    step = 1e-3
    for index, (way, gradient) in enumerate(zip(ways, gradients, strict=True)):

        def moved(size, index=index, way=way):
            changed = list(values)
            changed[index] = changed[index] + size * step * way
            return float(function(*changed))

        slope = (45 * (moved(1) - moved(-1)) - 9 * (moved(2) - moved(-2)) + moved(3) - moved(-3)) / (60 * step)
        assert slope == pytest.approx(float((gradient * way).sum()), rel=rel, abs=1e-9)


@pytest.mark.parametrize("name", VALUES)
def test_the_value_moves_as_whole_solves_do(name):
    check(lambda x, y, a, b: VALUES[name].solve(x, y, a=a, b=b).value, arguments())


def test_the_value_of_a_batch_whose_problems_share_their_unit():
    solver = VALUES["sinkhorn"]
    weigh = torch.tensor([1.0, 0.3, -2.0], dtype=torch.float64)
    check(lambda x, y, a, b: (weigh * solver.solve(x, y, a=a, b=b).value).sum(), arguments(batch=(3,)))


def test_weights_alone_move_the_unit_too():
    x, y, a, b = arguments()
    weights = a.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(VALUES["sinkhorn"].solve(x, y, a=weights, b=b).value, weights)
    way = normal(N, seed=4)
    way, step = 0.1 * (way - way.mean()), 1e-3
    ahead, behind = (float(VALUES["sinkhorn"].solve(x, y, a=a + s * step * way, b=b).value) for s in (1, -1))
    assert (ahead - behind) / (2 * step) == pytest.approx(float((gradient * way).sum()), rel=1e-5)


@pytest.mark.parametrize("solver", ["sinkhorn", "unbalanced"])
def test_potentials_move_as_whole_solves_do(solver):
    def of_potentials(x, y, a, b):
        solution = VALUES[solver].solve(x, y, a=a, b=b)
        f, g = solution.potentials() if x.requires_grad or a.requires_grad else (solution.f, solution.g)
        return (normal(N, seed=7) * f).sum() + (normal(M, seed=8) * g).sum()

    check(of_potentials, arguments())


@pytest.mark.parametrize("z", [None, normal(4, 2, seed=30)], ids=["sources", "new-points"])
def test_the_map_moves_as_whole_solves_do(z):
    def of_map(x, y, a, b):
        image = VALUES["sinkhorn"].solve(x, y, a=a, b=b).barycentric_map(z, differentiable=x.requires_grad)
        return (normal(*image.shape, seed=9) * image.square()).sum()

    check(of_map, arguments())


def test_a_plan_of_low_rank_moves_by_its_unit():
    """⟨P, C⟩ of the plan as it is: its own change, where it has settled, does not count."""
    x, y, *_ = arguments()
    kernel, points = SquaredEuclidean(), x.clone().requires_grad_()
    solution = LowRank(kernel=kernel, rank=3).solve(points, y)
    (gradient,) = torch.autograd.grad(solution.value, points)
    plan, again = solution.plan(), x.clone().requires_grad_()
    squared = (again[:, None] - y).square().sum(-1)
    expected = torch.autograd.grad((plan * squared).sum() / squared.mean(), again)[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-10)


def test_two_derivatives_of_one_solution_do_not_use_each_other_up():
    x, y, a, b = (value.requires_grad_() for value in arguments())
    solution = VALUES["sinkhorn"].solve(x, y, a=a, b=b)
    first = torch.autograd.grad(solution.value, (x, b))
    torch.autograd.grad(solution.potentials()[0].square().sum(), (x, b))
    again = torch.autograd.grad(VALUES["sinkhorn"].solve(x, y, a=a, b=b).value, (x, b))
    torch.testing.assert_close(first, again)
