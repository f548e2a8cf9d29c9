"""What `auto` takes meets its tolerance, measured in float64; it takes what the time model says, and says so."""

from __future__ import annotations

import attrs
import pytest
import torch
from atlas_kernels_builtin.approximate.at_landmarks import factors_at
from atlas_kernels_builtin.approximate.exact import exact_of, relative_error
from atlas_kernels_builtin.approximate.nystroem import nystroem_operator
from atlas_kernels_builtin.auto.auto import Auto
from atlas_kernels_builtin.auto.check import check
from atlas_kernels_builtin.auto.choices import Choice
from atlas_kernels_builtin.auto.pilot import run_pilot
from atlas_kernels_builtin.auto.probe import probe
from atlas_kernels_builtin.exact.streaming import stream
from atlas_kernels_builtin.kernels.cauchy import Cauchy
from atlas_kernels_builtin.kernels.energy import Energy
from atlas_kernels_builtin.kernels.laplacian import Laplacian
from atlas_kernels_builtin.kernels.matern import Matern
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn

from atlas_core.contracts import KernelOperator
from atlas_kernels_builtin import Gaussian


def cloud(n, d, seed=0, dtype=torch.float32):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def true_error(operator, kernel, x, y, epsilon=1.0):
    """|K̂ − K|_F / |K|_F: on all rows, in float64, distances by subtraction."""
    exact = (kernel.log_kernel(x.double(), y.double()) / epsilon).exp()
    return float((operator.dense().double() - exact).norm() / exact.norm())


PROBLEMS = [
    (Gaussian(2.0), 2, 1e-4, "nystroem"),
    (Gaussian(40.0), 32, 1e-3, "nystroem"),
    (Cauchy(3.0), 1, 1e-2, "nystroem"),
    (Laplacian(30.0), 8, 1e-2, "nystroem"),
    (Matern(nu=2.5, scale=4.0), 2, 1e-3, "nystroem"),
    (Laplacian(0.05), 8, 1e-3, "exact"),
    (Gaussian(0.5), 32, 1e-1, "exact"),
]


@pytest.mark.parametrize(("kernel", "d", "tolerance", "expected"), PROBLEMS)
def test_the_tolerance_is_met_in_float64(kernel, d, tolerance, expected):
    """Expected on any machine: one is faster a hundredfold, or the other needs as many landmarks as points."""
    x, y = cloud(3000, d), cloud(2500, d, seed=1)
    operator = Auto(kernel=kernel, tolerance=tolerance, matvecs=200).operator(x, y)
    name = operator.choice.name if operator.choice.size else "exact"
    assert name == expected, operator.reason
    assert true_error(operator, kernel, x, y) <= tolerance
    v = cloud(2500, 1, seed=3)[:, 0].double()
    truth = kernel.log_kernel(x.double(), y.double()).exp() @ v
    assert float((operator.matvec(v.float()).double() - truth).norm() / truth.norm()) <= 1.5 * tolerance
    assert (operator.error is None) == (expected == "exact")
    assert operator.error is None or operator.error.high <= tolerance


def test_it_says_what_it_took_and_why():
    operator = Auto(kernel=Gaussian(3.0), matvecs=200).operator(cloud(3000, 2), cloud(3000, 2, seed=1))
    assert isinstance(operator, KernelOperator)
    assert operator.choice.name == "nystroem"
    for part in (str(operator.choice), "tolerance 1e-03", "for 200 products", "dense takes about", "rff"):
        assert part in repr(operator), part


def test_one_product_of_few_points_is_not_worth_an_approximation():
    operator = Auto(kernel=Laplacian(), matvecs=1).operator(cloud(200, 2), cloud(200, 2))
    assert operator.choice.size is None
    assert operator.error is None


def test_random_features_are_taken_where_they_are_faster(monkeypatch):
    """In 64 dimensions, beside a Nyström approximation that is said to be slow."""
    from atlas_kernels_builtin.auto import choices

    monkeypatch.setattr(choices.Task, "nystroem_seconds", lambda self, rank: 1e9)
    x = cloud(4000, 64)
    kernel = Gaussian(25.0)
    operator = Auto(kernel=kernel, tolerance=0.01, matvecs=1000).operator(x, x)
    assert operator.choice.name == "rff", operator.reason
    assert true_error(operator, kernel, x, x) <= 0.01


@pytest.mark.parametrize("same", [True, False])
def test_the_pilot_predicts_the_error_of_what_is_built(same):
    x = cloud(2000, 3, dtype=torch.float64)
    y = x if same else cloud(2000, 3, seed=1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    pilot = run_pilot(probe(Gaussian(2.0), x, y, 1.0, generator), 64, generator)
    for rank in (8, 20, 64):
        z = pilot.landmarks[:rank]
        exact = Gaussian(2.0).log_kernel(x, y).exp()
        left, right = (Gaussian(2.0).log_kernel(points, z).exp() for points in (x, y))
        approximate = left @ torch.linalg.pinv(Gaussian(2.0).log_kernel(z, z).exp(), hermitian=True) @ right.mT
        truth = float((approximate - exact).norm() / exact.norm())
        assert truth / 2 < pilot.error(rank).value < 2 * truth


def test_the_probe_estimates_sums_over_all_columns_without_bias():
    """A narrow kernel, whose rows are one large entry and many small ones."""
    x = cloud(3000, 2, dtype=torch.float64)
    kernel = Laplacian(0.3)
    estimates = []
    for seed in range(20):
        seen = probe(kernel, x, x, 1.0, torch.Generator().manual_seed(seed))
        truth = kernel.log_kernel(x[seen.rows], x).exp().square().sum()
        estimates.append(float((seen.entries * seen.roots).square().sum() / truth))
    assert sum(estimates) / 20 == pytest.approx(1, abs=0.02)


def test_scaling_solvers_take_it_only_if_it_is_to_be_positive_and_are_told_what_to_do():
    x, y = cloud(300, 2, dtype=torch.float64), cloud(300, 2, seed=1, dtype=torch.float64)
    default = Auto(kernel=Gaussian(2.0))
    assert not default.has_log
    with pytest.raises(ValueError, match="positive-rff"):
        Sinkhorn(kernel=default).solve(x, y)
    auto = Auto(kernel=Gaussian(2.0), positive=True)
    assert auto.operator(x, y).positive
    ours, truth = (Sinkhorn(kernel=k, epsilon=0.1, tolerance=1e-8).solve(x, y) for k in (auto, Gaussian(2.0)))
    torch.testing.assert_close(ours.value, truth.value, rtol=1e-6, atol=0)


def test_positive_features_are_the_only_approximation_where_it_is_to_be_positive():
    x, y = cloud(2500, 2), cloud(2500, 2, seed=1)
    kernel = Gaussian(15.0)
    operator = Auto(kernel=kernel, tolerance=0.05, matvecs=5000, positive=True).operator(x, y)
    assert operator.choice.name == "positive-rff", operator.reason
    assert float(operator.dense().min()) >= 0
    assert true_error(operator, kernel, x, y) <= 0.05


def test_a_batch_is_measured_as_a_whole():
    x, y = cloud(3000, 2).reshape(2, 1500, 2), cloud(3000, 2, seed=1).reshape(2, 1500, 2)
    epsilon = torch.tensor([1.0, 2.0])
    operator = Auto(kernel=Gaussian(3.0), matvecs=300).operator(x, y, epsilon=epsilon)
    assert operator.choice.name == "nystroem"
    for i in range(2):
        exact = (Gaussian(3.0).log_kernel(x[i].double(), y[i].double()) / float(epsilon[i])).exp()
        assert float((operator.dense()[i].double() - exact).norm() / exact.norm()) <= 2e-3


def test_gradients_are_those_of_the_kernel():
    x, y = cloud(2000, 2, dtype=torch.float64).requires_grad_(), cloud(2000, 2, seed=1, dtype=torch.float64)
    v = cloud(2000, 1, seed=2, dtype=torch.float64)[:, 0]
    operator = Auto(kernel=Gaussian(3.0), tolerance=1e-6, matvecs=500).operator(x, y)
    assert operator.choice.name == "nystroem", operator.reason
    gradients = [torch.autograd.grad(o.matvec(v).square().sum(), x)[0] for o in (operator, stream(Gaussian(3.0), x, y))]
    assert float((gradients[0] - gradients[1]).norm() / gradients[1].norm()) < 1e-4


def test_a_kernel_without_spectral_law_or_positive_definiteness_is_still_right():
    x = cloud(900, 2)
    operator = Auto(kernel=Energy(), matvecs=300).operator(x, x)
    assert operator.choice.size is None
    torch.testing.assert_close(operator.dense(), -torch.cdist(x.double(), x.double()).float(), rtol=1e-4, atol=1e-3)


def test_the_same_seed_takes_the_same_landmarks():
    x = cloud(2500, 2)
    auto = Auto(kernel=Gaussian(3.0), matvecs=300)
    first, again, other = (a.operator(x, x) for a in (auto, auto, attrs.evolve(auto, seed=1)))
    assert torch.equal(first.inner.left, again.inner.left)
    assert other.inner.left.shape != first.inner.left.shape or not torch.equal(other.inner.left, first.inner.left)


def test_a_choice_is_named_as_its_component_would_be_configured():
    assert str(Choice("nystroem", 64, 0.1, None)) == "nystroem(landmarks=64)"
    assert str(Choice("rff", 128, 0.1, None)) == "rff(features=128)"
    assert str(Choice("dense", None, 0.1, None)) == "dense"


@pytest.mark.parametrize("same", [True, False])
def test_few_points_far_from_all_others_are_found_by_the_check_and_made_landmarks(same):
    """1 % of the points, alone in the tails, carry the error: equal odds see few of them, and landmarks miss them."""
    wide = cloud(2500, 1, dtype=torch.float64)
    wide[::100] *= 60
    x = wide.float()
    y = x if same else x + 0.01
    kernel = Matern(nu=1.5, scale=0.5)
    operator = Auto(kernel=kernel, tolerance=1e-3, matvecs=500).operator(x, y)
    assert true_error(operator, kernel, x, y) <= 1e-3, operator.reason


def test_the_check_sees_what_equal_odds_would_miss():
    """Landmarks in the cluster only: its own error is nothing, and ten of 3,000 points carry all of it."""
    x = torch.cat([0.1 * cloud(2990, 2), 50 * cloud(10, 2, seed=1)])
    kernel = Gaussian(1.0)
    exact = exact_of(kernel, x, x, 1.0)
    factors = factors_at(kernel, x[:40], x, x, 1.0, rounding=1e-5)
    operator = nystroem_operator(exact, [factors])
    truth = true_error(operator, kernel, x, x)
    for seed in range(10):
        error, odds = check(operator, torch.Generator().manual_seed(seed))
        assert truth / 2 < error.value < 2 * truth
        assert error.high > truth
        assert float(odds.reshape(2, -1)[:, -10:].sum()) > 0.4 * float(odds.sum())


def test_the_interval_counts_the_columns_that_were_sampled():
    """An error that sits in some of the columns: the number varies with the columns drawn, which is in the interval."""
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(64, 20_000, generator=generator, dtype=torch.float64)
    got = exact.clone()
    got[:, ::50] += 0.5
    truth = float((got - exact).norm() / exact.norm())
    everywhere, inside, without = torch.ones(400, dtype=torch.bool), 0, 0
    for _ in range(100):
        columns = torch.randint(20_000, (400,), generator=generator)
        parts = got[:, columns], exact[:, columns]
        estimate = relative_error(*parts, torch.ones(64), sampled_columns=everywhere)
        inside += estimate.low <= truth <= estimate.high
        estimate = relative_error(*parts, torch.ones(64))
        without += estimate.low <= truth <= estimate.high
    assert inside >= 80
    assert without < 50


def test_how_many_products_are_expected_decides():
    """Building pays for many products, not for one."""
    x = cloud(800, 2)
    one, many = (Auto(kernel=Gaussian(3.0), matvecs=k).operator(x, x) for k in (1, 10**4))
    assert one.choice.size is None, one.reason
    assert many.choice.name == "nystroem", many.reason
