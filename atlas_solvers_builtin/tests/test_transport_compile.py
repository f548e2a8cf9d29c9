"""A compiled function may hold whole solves: the same numbers, and the same gradients, as without a compiler."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from atlas_core import build

EXACTLY = {"rtol": 0, "atol": 1e-12}
SOLVERS = ["sinkhorn", "sinkhorn-unbalanced", "sinkhorn-divergence", "low-rank", "exact"]


def normal(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


X, Y = normal(20, 2), normal(15, 2, seed=1)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()


def value_and_slopes(function):
    x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
    value = function(x, y)
    value.backward()
    return value.detach(), x.grad, y.grad


@pytest.mark.parametrize(("name", "backend"), [*((name, "eager") for name in SOLVERS), ("sinkhorn", "aot_eager")])
def test_a_solve_inside_a_compiled_function_gives_the_same_value_and_gradient(name, backend):
    solver = build("solver", name)

    def function(x, y):
        solution = solver.solve(1.5 * x, y.sin())
        loss = solution.cost if name == "exact" else solution.value
        return (loss * x.square().mean()).sqrt()

    torch.testing.assert_close(
        value_and_slopes(torch.compile(function, backend=backend)), value_and_slopes(function), **EXACTLY
    )


def test_a_compiled_solve_is_the_solve():
    solver = build("solver", "sinkhorn", epsilon=0.1)
    found, expected = torch.compile(solver.solve, backend="eager")(X, Y), solver.solve(X, Y)
    for name in ("f", "g", "value", "marginal_error"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), **EXACTLY)


def test_what_a_solution_offers_is_there_in_a_compiled_function():
    solver = build("solver", "sinkhorn", epsilon=0.1)

    def function(x, y):
        solution = solver.solve(x, y)
        parts = solution.barycentric_map(), solution.plan(), solution.matvec(y), solution.rmatvec(x)
        return torch.stack([*(part.sin().sum() for part in parts), solution.cost, solution.potentials()[0].sum()])

    torch.testing.assert_close(torch.compile(function, backend="eager")(X, Y), function(X, Y), **EXACTLY)


def test_barycenters_and_images_compile_too():
    barycenter, images = (
        build("solver", "barycenter"),
        build("solver", "sinkhorn-grid", kernel={"use": "grid", "shape": [6, 5]}),
    )
    points = images.kernel.points().double()
    a, b = (torch.softmax(normal(30, seed=seed), 0) for seed in (2, 3))

    def function(x, y):
        return barycenter.solve(x, y[None]).value.sum() + images.solve(points, points, a=a, b=b).value

    torch.testing.assert_close(torch.compile(function, backend="eager")(X, Y), function(X, Y), **EXACTLY)


def test_a_warning_names_the_line_that_solved():
    torch.compile(lambda x: x + 1, backend="eager")(X)  # the compiler is there, but not at work
    with pytest.warns(RuntimeWarning, match="not solved") as said:
        build("solver", "sinkhorn", epsilon=0.01, max_iterations=1).solve(X, Y)
    assert said[0].filename == __file__


def test_the_compiler_is_not_imported_where_nothing_is_compiled():
    program = (
        "import sys, torch, atlas_core; x = torch.ones(3, 1, dtype=torch.float64).cumsum(0);"
        "atlas_core.build('solver', 'sinkhorn').solve(x, x + 1); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
