"""A streamed problem is solved on a part of its points first: that changes what it takes, not what is found."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from atlas_kernels_builtin.exact.exact_kernels import Dense, Streaming
from atlas_kernels_builtin.kernels.squared_euclidean import SquaredEuclidean
from atlas_solvers_builtin.transport.balanced import parts
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn

KERNEL = SquaredEuclidean(scale="mean")
SOLVER = Sinkhorn(kernel=Streaming(kernel=KERNEL), epsilon=0.05, tolerance=1e-9)


def normal(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(parts, "FEWEST", 64)  # 500 points are divided once, 1500 twice


@pytest.mark.parametrize("batch", [(), (2,)], ids=["one", "batch"])
@pytest.mark.parametrize("epsilon", [0.05, 0.01])
def test_the_start_changes_the_work_and_not_the_answer(batch, epsilon):
    x, y = normal(*batch, 500, 2), 0.7 * normal(*batch, 400, 2, seed=1) + 0.3
    a = torch.softmax(normal(500, seed=2), 0)
    a = torch.where(torch.arange(500) % 7 == 0, 0.0, a)
    a = a / a.sum()
    solver = attrs.evolve(SOLVER, epsilon=epsilon)
    found = solver.solve(x, y, a=a)
    stored = attrs.evolve(solver, kernel=Dense(kernel=KERNEL), storage="float64").solve(x, y, a=a)
    assert set(found.status) == {"converged"}
    torch.testing.assert_close(found.value, stored.value, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.f, stored.f, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.g, stored.g, rtol=0, atol=1e-6)


def test_a_small_epsilon_is_reached_from_a_large_one_instead():
    x, y = normal(260, 2), 0.7 * normal(260, 2, seed=1) + 0.3
    solver = attrs.evolve(SOLVER, epsilon=0.005, tolerance=1e-4)
    divided, whole = (attrs.evolve(solver, parts=on).solve(x, y) for on in (True, False))
    assert divided.status == ("converged",)
    assert divided.matvecs == whole.matvecs


@pytest.mark.parametrize("dimension", [2, 16])
def test_it_saves_products(dimension):
    x, y = normal(1500, dimension), 0.8 * normal(1500, dimension, seed=1) + 0.3
    solver = attrs.evolve(SOLVER, tolerance=1e-4)
    divided, whole = (attrs.evolve(solver, parts=on).solve(x, y) for on in (True, False))
    assert divided.status == whole.status == ("converged",)
    assert divided.matvecs < 0.9 * whole.matvecs


def test_what_is_drawn_has_the_mass_of_all_and_is_no_empty_point():
    x, y = normal(1000, 2), normal(100, 2, seed=1)
    a = torch.where(torch.arange(1000) % 2 == 0, 0.0, 3.0).double()
    operator = Streaming(kernel=KERNEL).operator(x, y, epsilon=0.1)
    part = parts.part_of(parts.Problem(operator, a, torch.full((100,), 15.0).double(), torch.tensor(0.1).double()))
    assert part is not None
    assert part.problem.operator.shape == (125, 64)
    assert (part.rows % 2 == 1).all()
    torch.testing.assert_close(part.problem.a.sum(), a.sum())
    torch.testing.assert_close(part.problem.b.sum(), a.sum())
    torch.testing.assert_close(part.problem.operator.dense(), operator.dense()[part.rows][:, part.columns])
