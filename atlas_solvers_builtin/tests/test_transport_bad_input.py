"""What cannot be meant is named; what can is answered, however degenerate."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from atlas_kernels_builtin.grids.grid import Grid
from atlas_kernels_builtin.kernels.squared_euclidean import SquaredEuclidean
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn
from atlas_solvers_builtin.transport.barycenters.barycenter import Barycenter
from atlas_solvers_builtin.transport.divergence.divergence import SinkhornDivergence
from atlas_solvers_builtin.transport.exact.exact import Exact
from atlas_solvers_builtin.transport.grids.grid_solve import SinkhornGrid
from atlas_solvers_builtin.transport.low_rank.low_rank import LowRank
from atlas_solvers_builtin.transport.unbalanced.unbalanced import SinkhornUnbalanced

from atlas_kernels_builtin import Gaussian

BALANCED = (
    Sinkhorn(kernel=Gaussian(), epsilon=0.1, tolerance=1e-11),
    SinkhornDivergence(kernel=Gaussian(), epsilon=0.1, tolerance=1e-11),
    SinkhornUnbalanced(kernel=Gaussian(), epsilon=0.1, rho=float("inf"), tolerance=1e-11),
    Exact(kernel=Gaussian()),
    LowRank(kernel=Gaussian(), rank=4),
)
SOLVER = Sinkhorn(kernel=Gaussian(), epsilon=0.1, tolerance=1e-8)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape)).to(dtype)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(0, 2), torch.zeros(3, 2), r"x must be a non-empty .*not \(0, 2\)"),
        (torch.zeros(3, 2), torch.zeros(3, 0), "y must be a non-empty"),
        (torch.zeros(3, 2), torch.zeros(4, 2).double(), "x is torch.float32 on cpu, y is torch.float64"),
        (torch.zeros(3, 2).long(), torch.zeros(4, 2).long(), "x holds torch.int64: points must be floating point"),
        (torch.zeros(3, 2), torch.zeros(4, 3), "different shapes"),
        (torch.zeros(2, 3, 2), torch.zeros(5, 4, 2), "batch dimensions"),
        (torch.zeros(3, 2), torch.zeros(4, 2, device="meta"), "x is on cpu, y is on meta"),
    ],
)
def test_points_that_do_not_fit_are_named(x, y, message):
    with pytest.raises(ValueError, match=message):
        SOLVER.solve(x, y)


def test_single_points_and_points_that_are_all_equal():
    single = SOLVER.solve(torch.zeros(1, 2).double(), torch.ones(1, 2).double())
    assert float(single.value) == pytest.approx(1.0, rel=1e-12)  # |x − y|² / 2, and nothing to choose
    y = normal(5, 2)
    spread = SOLVER.solve(torch.zeros(1, 2).double(), y)
    assert float(spread.value) == pytest.approx(float(y.square().sum(-1).mean() / 2), rel=1e-9)
    equal = SOLVER.solve(torch.ones(3, 2), torch.ones(4, 2))
    assert float(equal.value) == 0
    torch.testing.assert_close(equal.plan(), torch.full((3, 4), 1 / 12))


def test_duplicate_points_are_one_point_of_their_weight():
    x, y = normal(3, 2), normal(4, 2, seed=1)
    expected = SOLVER.solve(x, y)
    solution = SOLVER.solve(x.repeat(5, 1), y.repeat(3, 1))
    torch.testing.assert_close(solution.value, expected.value, rtol=1e-9, atol=0)
    torch.testing.assert_close(solution.plan().reshape(5, 3, 3, 4).sum((0, 2)), expected.plan(), rtol=1e-6, atol=1e-10)


def test_integer_weights_are_masses():
    x, y, a = normal(3, 2), normal(4, 2, seed=1), torch.tensor([3, 1, 0])
    solution = SOLVER.solve(x, y, a=a, b=torch.ones(4, dtype=torch.int64))
    torch.testing.assert_close(solution.plan().sum(1), a.double(), rtol=0, atol=1e-6)
    assert float(solution.value) == pytest.approx(4 * float(_half(x, y)), rel=1e-2)


@pytest.mark.parametrize("solver", BALANCED, ids=lambda solver: type(solver).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_normalised_in_a_coarser_dtype_are_normalised(solver, dtype):
    x, y = normal(50, 2), normal(40, 2, seed=1)
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.rand(size, generator=generator) + 0.1 for size in (50, 40))
    a, b = ((weights / weights.sum()).to(dtype) for weights in (a, b))
    assert float((a.double().sum() - b.double().sum()).abs()) > 1e-9  # they differ, as float64 sees them
    exact = a.double(), b.double() * (a.double().sum() / b.double().sum())
    found, expected = solver.solve(x, y, a=a, b=b), solver.solve(x, y, a=exact[0], b=exact[1])
    assert bool(found.converged.all())
    torch.testing.assert_close(found.value, expected.value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.plan().sum(), a.double().sum(), rtol=1e-8, atol=0)
    alone, alike = solver.solve(x, y, a=a / a.sum()), torch.full((50,), 1 / 50, dtype=torch.float32)
    assert bool(alone.converged.all())
    assert bool(solver.solve(x, y, a=alike).converged.all())


def test_masses_that_differ_are_said_with_their_difference():
    x, y, a = normal(3, 2), normal(4, 2, seed=1), torch.full((3,), 1 / 3, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"a has mass 1.001 and b 1, which differ by 0.001, .*divide each by its sum"):
        SOLVER.solve(x, y, a=1.001 * a)
    with pytest.raises(ValueError, match=r"which differ by 1e-05"):
        SOLVER.solve(x, y, a=(1 + 1e-5) * torch.full((3,), 1 / 3, dtype=torch.float64))


def _half(x, y):
    """The value per mass, up to ε log mass, from the same problem of mass 1."""
    value = SOLVER.solve(x, y, a=torch.tensor([0.75, 0.25, 0]).double()).value
    return value + SOLVER.epsilon * (4 - 1 - np.log(4))  # P = 4 P₁, a ⊗ b = 16 a₁ ⊗ b₁


def test_an_epsilon_below_the_dtype_is_said_with_the_number():
    x, y = normal(30, 2, dtype=torch.float32), normal(40, 2, seed=1, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"epsilon 1e-09 is below what float32 can carry.*smallest .* [0-9.]+e-07"):
        Sinkhorn(kernel=Gaussian(), epsilon=1e-9).solve(x, y)
    for value in (0.0, -1.0):
        with pytest.raises(ValueError, match="epsilon"):
            Sinkhorn(kernel=Gaussian(), epsilon=value)


def test_a_tolerance_that_the_dtype_cannot_reach_names_the_epsilon_that_could():
    x, y = normal(30, 2, dtype=torch.float32), normal(40, 2, seed=1, dtype=torch.float32)
    with pytest.warns(RuntimeWarning, match=r"stalled.*use float64, or a tolerance of .*epsilon of at least") as caught:
        solution = Sinkhorn(kernel=Gaussian(), epsilon=1e-3, tolerance=1e-6).solve(x, y)
    assert len(caught) == 1
    assert solution.status == ("stalled",)
    assert Sinkhorn(kernel=Gaussian(), epsilon=1e-3, tolerance=1e-6).solve(x.double(), y.double()).converged


def test_far_from_the_origin_float64_loses_nothing_that_matters():
    x, y = normal(30, 2), normal(40, 2, seed=1)
    near, far = SOLVER.solve(x, y), SOLVER.solve(x + 1e5, y + 1e5)
    torch.testing.assert_close(far.value, near.value, rtol=1e-8, atol=0)


def test_an_outlier_whose_kernel_underflows_is_served():
    x = torch.cat([normal(30, 2), torch.tensor([[60.0, 0.0]])])  # exp(−C/ε) is 0 in float64: C/ε is 18,000
    y = torch.cat([normal(30, 2, seed=1), torch.tensor([[58.0, 0.0]])])
    solution = SOLVER.solve(x, y)
    assert solution.status == ("converged",)
    plan = solution.plan()
    assert float((plan.sum(1) - 1 / 31).abs().sum()) <= 1e-8
    assert float(plan[-1, -1]) == pytest.approx(1 / 31, rel=1e-6)


def test_the_callers_tensors_and_the_random_state_are_left_alone():
    x, y, a = normal(6, 2), normal(5, 2, seed=1), torch.full((6,), 1 / 6, dtype=torch.float64)
    copies, state = [t.clone() for t in (x, y, a)], torch.get_rng_state()
    SOLVER.solve(x, y, a=a)
    assert all(torch.equal(*pair) for pair in zip((x, y, a), copies, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("seed", [7, 21, 104, 141])
def test_weights_over_many_orders_at_small_epsilon_are_solved(seed):
    """Light points must not be lost to what is left out of the stored kernel, nor to underflow in float32."""
    rng = np.random.default_rng(seed)
    x, y = (torch.tensor(rng.normal(size=(size, 5)) * rng.uniform(0.2, 3)) for size in (120, 90))
    a, b = rng.exponential(size=120) * (rng.uniform(size=120) < 0.9) + 1e-12, rng.exponential(size=90) ** 4
    a, b = torch.tensor(a / a.sum()), torch.tensor(b / b.sum())
    kernel = SquaredEuclidean(scale="mean")
    solution = Sinkhorn(kernel=kernel, epsilon=0.003, tolerance=1e-6).solve(x, y, a=a, b=b)
    assert solution.status == ("converged",)
    plan = solution.plan()
    assert float((plan.sum(1) - a).abs().sum()) <= 1e-6
    assert float((plan.sum(0) - b).abs().sum()) <= 1e-6


@pytest.mark.parametrize("solver", BALANCED, ids=lambda solver: type(solver).__name__)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_a_plan_refuses_vectors_of_integers(solver, dtype):
    solution = solver.solve(normal(5, 2), normal(4, 2, seed=1))
    for call, length in ((solution.matvec, 4), (solution.rmatvec, 5)):
        for shape in ((length,), (length, 2)):
            with pytest.raises(ValueError, match=f"a vector of {dtype} cannot hold a product"):
                call(torch.ones(shape, dtype=dtype))


@pytest.mark.parametrize(
    "solver", [Sinkhorn, SinkhornUnbalanced, Barycenter, SinkhornGrid], ids=lambda solver: solver.__name__
)
def test_the_epsilon_of_an_operator_and_another_one_of_the_solver_are_refused(solver):
    operator = Grid((4, 4), kernel=Gaussian()).operator(like=torch.zeros(2, 4, 4).double(), epsilon=0.05)
    with pytest.raises(ValueError, match=r"epsilon is 0.5, and that of the operator \[0.05"):
        solver(epsilon=0.5).solve_operator(operator)
    unset, same = (solver(epsilon=epsilon).solve_operator(operator) for epsilon in (None, 0.05))
    torch.testing.assert_close(unset.epsilon, torch.full_like(unset.epsilon, 0.05))
    torch.testing.assert_close(same.value, unset.value, rtol=0, atol=0)


def test_a_divergence_of_marginals_that_nothing_may_differ_in_is_refused():
    with pytest.raises(ValueError, match=r"marginals = 'tv' has no effect with rho = inf.*set a finite rho"):
        SinkhornDivergence(marginals="tv")
    assert SinkhornDivergence(marginals="tv", rho=1.0).marginals == "tv"


def test_low_rank_says_what_it_starts_from():
    x, y = normal(5, 2), normal(4, 2, seed=1)
    with pytest.raises(ValueError, match="not a EntropicPlan: leave init out, or pass what `low-rank` returned"):
        LowRank(rank=2).solve(x, y, init=SOLVER.solve(x, y))


def test_the_status_of_a_batch_is_flattened():
    x, y = normal(2, 3, 5, 2), normal(2, 3, 4, 2, seed=1)
    solution = SOLVER.solve(x, y)
    assert solution.status == ("converged",) * 6
    assert solution.converged.shape == (2, 3)


@attrs.frozen
class Squeezed:
    """A plugin's kernel that forgets an axis."""

    has_log = True
    item_ndim = 1

    def log_kernel(self, x, y):
        return -(x[:, None] - y).square().sum(-1).mean(-1)


def test_a_kernel_of_the_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"Squeezed.log_kernel returned \(\d+,\) for \d+ points x and 4 points y"):
        Sinkhorn(kernel=Squeezed()).solve(normal(5, 2), normal(4, 2, seed=1))
    with pytest.raises(
        ValueError, match=r"Squeezed.log_kernel returned .* has to return one number a pair, \(\d+, 4\)"
    ):
        Sinkhorn(kernel=Squeezed(), epsilon=1.0).solve(normal(5, 2).requires_grad_(), normal(4, 2, seed=1))
