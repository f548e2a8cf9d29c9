"""Derivatives of the potentials and of the map: against finite differences, and against an unrolled loop."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn

from atlas_kernels_builtin import Gaussian, operator_of

SOLVER = Sinkhorn(kernel=Gaussian(), epsilon=0.3, tolerance=1e-12)
N, M = 9, 8


def normal(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def arguments():
    """x, y, a, b and ε."""
    a, b = (torch.softmax(0.5 * normal(size, seed=size), 0) for size in (N, M))
    return normal(N, 2), normal(M, 2, seed=1), a, b, torch.tensor(0.3, dtype=torch.float64)


def solve(x, y, a, b, epsilon):
    return attrs.evolve(SOLVER, epsilon=None).solve_operator(
        operator_of(Gaussian(), x, y, epsilon=epsilon), a=a, b=b, y=y
    )


def of_potentials(*values, differentiable=True):
    solution = solve(*values)
    f, g = solution.potentials() if differentiable else (solution.f, solution.g)
    return (normal(N, seed=7) * f).sum() + (normal(M, seed=8) * g).sum()


def of_map(*values, differentiable=True):
    image = solve(*values).barycentric_map(differentiable=differentiable)
    return (normal(N, 2, seed=9) * image.square()).sum()


@pytest.mark.parametrize("function", [of_potentials, of_map])
def test_implicit_gradients_are_those_of_finite_differences(function):
    attached = [value.clone().requires_grad_() for value in arguments()]
    gradients = torch.autograd.grad(function(*attached), attached)
    ways = [normal(N, 2, seed=2), normal(M, 2, seed=3), normal(N, seed=4), normal(M, seed=5), torch.tensor(1.0)]
    ways[2], ways[3] = (way - way.mean() for way in ways[2:4])  # mass is kept
    step = 1e-3
    for index, (way, gradient) in enumerate(zip(ways, gradients, strict=True)):

        def moved(size, index=index, way=way):
            values = list(arguments())
            values[index] = values[index] + size * step * way * (0.1 if index in (2, 3) else 1)
            return float(function(*values, differentiable=False))

        slope = (45 * (moved(1) - moved(-1)) - 9 * (moved(2) - moved(-2)) + moved(3) - moved(-3)) / (60 * step)
        scale = 0.1 if index in (2, 3) else 1
        assert slope == pytest.approx(float((gradient * way).sum()) * scale, rel=1e-6, abs=1e-9)


def test_implicit_gradients_are_those_of_an_unrolled_loop():
    attached = [value.clone().requires_grad_() for value in arguments()]
    x, y, a, b, epsilon = attached
    cost = (x[:, None] - y).square().sum(-1) / 2
    g = torch.zeros(M, dtype=torch.float64)
    for _ in range(400):
        f = -epsilon * ((g - cost) / epsilon + b.log()).logsumexp(1)
        g = -epsilon * ((f[:, None] - cost) / epsilon + a.log()[:, None]).logsumexp(0)
    shift = ((a * f).sum() - (b * g).sum()) / (a.sum() + b.sum())
    unrolled = (normal(N, seed=7) * (f - shift)).sum() + (normal(M, seed=8) * (g + shift)).sum()
    torch.testing.assert_close(of_potentials(*arguments()), unrolled.detach(), rtol=1e-9, atol=0)
    expected = torch.autograd.grad(unrolled, attached)
    found = torch.autograd.grad(of_potentials(*attached), attached)
    for got, truth, is_weight in zip(found, expected, (False, False, True, True, False), strict=True):
        # Off the simplex neither is defined: weights are compared along it.
        pair = [part - part.mean() if is_weight else part for part in (got, truth)]
        torch.testing.assert_close(*pair, rtol=1e-7, atol=1e-9)


def test_points_without_weight_have_a_gradient_of_their_own():
    x, y, a, b, epsilon = arguments()
    a, b = torch.cat([a, torch.zeros(1)]), torch.cat([b, torch.zeros(1)])
    x, y = torch.cat([x, torch.tensor([[0.3, -0.2]])]), torch.cat([y, torch.tensor([[-0.1, 0.4]])])

    def function(x, y):
        solution = solve(x, y, a, b, epsilon)
        f, g = solution.potentials() if x.requires_grad else (solution.f, solution.g)
        return f[-1] + 2 * g[-1]

    attached = x.clone().requires_grad_(), y.clone().requires_grad_()
    gradients = torch.autograd.grad(function(*attached), attached)
    ways, step = (normal(N + 1, 2, seed=2), normal(M + 1, 2, seed=3)), 1e-4
    ahead, behind = (function(*(p + s * step * w for p, w in zip((x, y), ways, strict=True))) for s in (1, -1))
    expected = sum(float((g * w).sum()) for g, w in zip(gradients, ways, strict=True))
    assert float(ahead - behind) / (2 * step) == pytest.approx(expected, rel=1e-6)


def test_out_of_sample_points_carry_a_gradient_through_the_map():
    """For C = |z − y|² / 2 the map's derivative is the covariance of y given z, over ε."""
    x, y, *_ = arguments()
    solution = SOLVER.solve(x, y)
    z = torch.tensor([[0.2, 0.1]], dtype=torch.float64, requires_grad=True)
    image = solution.barycentric_map(z, differentiable=True)
    rows = [torch.autograd.grad(image[0, i], z, retain_graph=True)[0][0] for i in range(2)]
    chance = torch.softmax((solution.g - (z.detach() - y).square().sum(-1) / 2) / 0.3, -1)
    mean = chance @ y
    covariance = (y - mean).T @ (chance[:, None] * (y - mean))
    torch.testing.assert_close(torch.stack(rows), covariance / 0.3, rtol=1e-9, atol=1e-11)


def test_what_wants_no_gradient_gets_none():
    x, y, *_ = arguments()
    solution = SOLVER.solve(x, y)
    assert not solution.potentials()[0].requires_grad
    assert not solution.value.requires_grad
