"""The streaming operator against the matrix it never forms, written out in float64."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from atlas_kernels_builtin.exact.streaming import stream
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_core.contracts import KernelOperator
from atlas_kernels_builtin import Gaussian, operator_of

SIZES = st.integers(1, 12)
TINY_BLOCKS = 600  # bytes: a handful of rows of one problem


@attrs.frozen
class Energy:
    """A signed kernel: −|x − y|."""

    has_log = False
    item_ndim = 1

    def block(self, x, y):
        return -torch.cdist(x, y)


@attrs.frozen
class Asymmetric:
    """log k(x, y) = −|x − 2y|²: catches an operator that swaps its arguments."""

    has_log = True
    item_ndim = 1

    def log_kernel(self, x, y):
        return -(x[:, None] - 2 * y[None]).square().sum(-1)


@attrs.frozen
class Window:
    """A kernel of compact support: its cost is infinite where it is zero."""

    has_log = True
    item_ndim = 1

    def log_kernel(self, x, y):
        return torch.where(torch.cdist(x, y) < 1, -torch.cdist(x, y), -torch.inf)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def exact(kernel, x, y, epsilon):
    """log K in float64, one problem after the other."""
    batch = x.shape[:-2]
    epsilons = np.broadcast_to(np.asarray(epsilon), batch)
    out = np.empty((*batch, x.shape[-2], y.shape[-2]))
    for i in np.ndindex(*batch):
        out[i] = kernel.log_kernel(x[i].double(), y[i].double()).numpy() / epsilons[i]
    return torch.tensor(out)


CASES = {
    "single": ((), 0.7),
    "batched": ((3,), torch.tensor([0.3, 0.7, 1.5], dtype=torch.float64)),
    "two-batch-dimensions": ((2, 3), 0.4),
}


@pytest.mark.parametrize("kernel", [Gaussian(0.8), Asymmetric()], ids=["gaussian", "asymmetric"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("block_bytes", [TINY_BLOCKS, 10**9], ids=["tiny-blocks", "one-block"])
def test_every_method_equals_the_dense_matrix(kernel, case, block_bytes):
    batch, epsilon = CASES[case]
    n, m = 23, 17
    x, y = normal(*batch, n, 2), normal(*batch, m, 2, seed=1)
    operator = stream(kernel, x, y, epsilon=epsilon, block_bytes=block_bytes)
    log_k = exact(kernel, x, y, epsilon)
    k = log_k.exp()
    cost = -log_k * torch.as_tensor(epsilon, dtype=torch.float64)[..., None, None]
    u, v = normal(*batch, n, seed=2), normal(*batch, m, seed=3)
    us, vs = normal(*batch, n, 4, seed=4), normal(*batch, m, 4, seed=5)
    close = {"rtol": 1e-11, "atol": 1e-13}

    assert isinstance(operator, KernelOperator)
    assert (operator.shape, operator.batch_shape, operator.dtype) == ((n, m), batch, torch.float64)
    torch.testing.assert_close(operator.dense(), k, **close)
    torch.testing.assert_close(operator.matvec(v), torch.einsum("...nm,...m->...n", k, v), **close)
    torch.testing.assert_close(operator.matvec(vs), k @ vs, **close)
    torch.testing.assert_close(operator.rmatvec(u), torch.einsum("...nm,...n->...m", k, u), **close)
    torch.testing.assert_close(operator.rmatvec(us), k.mT @ us, **close)
    torch.testing.assert_close(operator.log_matvec(v), (log_k + v[..., None, :]).logsumexp(-1), **close)
    torch.testing.assert_close(operator.log_rmatvec(u), (log_k + u[..., :, None]).logsumexp(-2), **close)
    torch.testing.assert_close(operator.log_rows(torch.tensor([5, 0, 5])), log_k[..., [5, 0, 5], :], **close)
    scaling = (u[..., :, None] + v[..., None, :]).exp()
    torch.testing.assert_close(operator.cost_inner(u, v), (scaling * k * cost).sum((-1, -2)), **close)

    scaled = operator.scaled(u, v)
    torch.testing.assert_close(scaled.dense(), scaling * k, **close)
    torch.testing.assert_close(scaled.rmatvec(us), (scaling * k).mT @ us, **close)
    torch.testing.assert_close(scaled.log_rmatvec(u), (log_k + scaling.log() + u[..., :, None]).logsumexp(-2), **close)
    torch.testing.assert_close(scaled.cost_inner(0 * u, 0 * v), operator.cost_inner(u, v), **close)
    torch.testing.assert_close(scaled.scaled(-u, -v).dense(), k, **close)


@settings(max_examples=40, deadline=None)
@given(n=SIZES, m=SIZES, d=st.integers(1, 5), log_epsilon=st.floats(-4, 3), seed=st.integers(0, 99))
def test_matvec_and_rmatvec_are_adjoint(n, m, d, log_epsilon, seed):
    x, y = normal(n, d, seed=seed), normal(m, d, seed=seed + 1)
    operator = stream(Asymmetric(), x, y, epsilon=10**log_epsilon, block_bytes=100)
    u, v = normal(n, seed=seed + 2), normal(m, seed=seed + 3)
    torch.testing.assert_close(u @ operator.matvec(v), operator.rmatvec(u) @ v, rtol=1e-10, atol=1e-300)


@pytest.mark.parametrize("epsilon", [1e-3, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_overflows_where_the_product_is_finite(epsilon, dtype):
    """The dual potentials of a matching of points with themselves, shifted by ±50: f/ε is up to 10⁸."""
    x = torch.cartesian_prod(torch.arange(6), torch.arange(5)).to(dtype)  # no two within 1 of each other
    operator = operator_of(Gaussian(), x, x, epsilon=epsilon)
    shift = torch.full((30,), 50 / epsilon, dtype=dtype)
    plan = operator.scaled(shift, -shift)
    torch.testing.assert_close(plan.dense(), torch.eye(30, dtype=dtype), rtol=0, atol=1e-6)
    torch.testing.assert_close(plan.matvec(x), x, rtol=1e-6, atol=1e-6)
    # log K of far points is −10⁶ and below: log_matvec must return it, not log 0.
    far = operator_of(Gaussian(), x, x + 100, epsilon=epsilon).log_matvec(torch.zeros(30, dtype=dtype))
    assert far.isfinite().all()
    assert (far < -1e6).all()


def test_minus_infinity_switches_rows_and_columns_off():
    operator = operator_of(Gaussian(), normal(5, 2), normal(4, 2, seed=1))
    left, right = torch.zeros(5, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    left[1], right[2] = -torch.inf, -torch.inf
    scaled = operator.scaled(left, right)
    expected = operator.dense()
    expected[1], expected[:, 2] = 0, 0
    torch.testing.assert_close(scaled.dense(), expected)
    assert scaled.cost_inner(0 * left.exp(), 0 * right.exp()).isfinite()
    assert operator.log_matvec(torch.full((4,), -torch.inf, dtype=torch.float64)).isneginf().all()


def test_pairs_of_infinite_cost_cost_nothing():
    x, y = normal(8, 1), normal(8, 1, seed=1)
    dense = operator_of(Window(), x, y).dense()
    expected = torch.where(dense > 0, -dense * dense.log(), 0).sum()
    zeros = torch.zeros(8, dtype=torch.float64)
    torch.testing.assert_close(operator_of(Window(), x, y).cost_inner(zeros, zeros), expected)


def test_points_shared_by_a_batch_are_broadcast():
    x, y = normal(3, 6, 2), normal(5, 2, seed=1)
    together = operator_of(Gaussian(), x, y).dense()
    torch.testing.assert_close(together[2], operator_of(Gaussian(), x[2], y).dense(), rtol=1e-13, atol=0)


def test_blocks_change_nothing_and_gradients_pass_through_them():
    x, y = normal(3, 20, 2).requires_grad_(), normal(3, 15, 2, seed=1).requires_grad_()
    v = normal(3, 15, seed=2).requires_grad_()
    gradients = []
    for block_bytes in (TINY_BLOCKS, 10**9):
        operator = stream(Gaussian(), x, y, epsilon=0.3, block_bytes=block_bytes)
        gradients.append(torch.autograd.grad(operator.log_matvec(v).square().sum(), (x, y, v)))
    log_k = torch.stack([Gaussian().log_kernel(x[i], y[i]) / 0.3 for i in range(3)])
    expected = torch.autograd.grad((log_k + v[:, None]).logsumexp(-1).square().sum(), (x, y, v))
    for got in gradients:
        for ours, truth in zip(got, expected, strict=True):
            torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-12)


def test_a_signed_kernel_has_a_matvec_and_no_logarithm():
    x, y, v = normal(9, 3), normal(7, 3, seed=1), normal(7, seed=2)
    operator = operator_of(Energy(), x, y)
    assert not operator.positive
    torch.testing.assert_close(operator.matvec(v), -torch.cdist(x, y) @ v)
    torch.testing.assert_close(operator.scaled(x[:, 0], v).dense(), x[:, :1].exp() * -torch.cdist(x, y) * v.exp())
    for method in (operator.log_matvec, operator.log_rmatvec):
        with pytest.raises(ValueError, match="Energy is a signed kernel"):
            method(v)
    with pytest.raises(ValueError, match="signed kernel"):
        operator_of(Energy(), x, y, epsilon=0.5)


def test_a_kernel_with_its_own_operator_is_asked_for_it():
    @attrs.frozen
    class Own(Gaussian):
        def operator(self, x, y, *, epsilon=1.0):
            return ("mine", epsilon)

    assert operator_of(Own(), normal(3, 2), normal(3, 2), epsilon=0.5) == ("mine", 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_error_estimate_is_honest_within_a_factor_of_two(dtype):
    x, y = normal(200, 3, dtype=dtype), normal(150, 3, seed=1, dtype=dtype)
    operator = operator_of(Gaussian(), x, y, epsilon=0.05)
    estimate = operator.error_estimate(200, seed=3)
    v = normal(150, seed=7)
    truth = operator_of(Gaussian(), x.double(), y.double(), epsilon=0.05).matvec(v)
    error = float((operator.matvec(v.to(dtype)).double() - truth).norm() / truth.norm())
    assert estimate.low <= estimate.value <= estimate.high
    if dtype == torch.float32:
        assert estimate.value / 2 <= error <= 2 * estimate.value
    else:
        assert error <= 2 * estimate.high


@pytest.mark.parametrize(
    ("x", "y", "epsilon", "message"),
    [
        (normal(4, 2), normal(4, 3), 1.0, "different shapes"),
        (normal(4), normal(4), 1.0, "non-empty"),
        (normal(0, 2), normal(4, 2), 1.0, "non-empty"),
        (normal(4, 2), normal(4, 2).float(), 1.0, "float32"),
        (normal(4, 2).long(), normal(4, 2).long(), 1.0, "floating point"),
        (normal(2, 4, 2), normal(3, 4, 2), 1.0, "batch dimensions"),
        (normal(4, 2), normal(4, 2), 0.0, "epsilon"),
        (normal(4, 2), normal(4, 2), float("nan"), "epsilon"),
    ],
)
def test_bad_input_is_named(x, y, epsilon, message):
    with pytest.raises(ValueError, match=message):
        operator_of(Gaussian(), x, y, epsilon=epsilon)


def test_a_vector_of_the_wrong_length_is_named():
    with pytest.raises(ValueError, match=r"\(4,\)"):
        operator_of(Gaussian(), normal(5, 2), normal(4, 2)).matvec(normal(5))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("block_bytes", [TINY_BLOCKS, 10**9], ids=["tiny-blocks", "one-block"])
def test_two_products_at_once_are_two_products(case, block_bytes):
    batch, epsilon = CASES[case]
    x, y = normal(*batch, 23, 2), normal(*batch, 17, 2, seed=1)
    operator = stream(Gaussian(0.8), x, y, epsilon=epsilon, block_bytes=block_bytes)
    weights, v = normal(*batch, 23, seed=2), normal(*batch, 17, seed=3)
    k = exact(Gaussian(0.8), x, y, epsilon).exp()
    expected = torch.einsum("...nm,...n,...nl,...l->...m", k, weights, k, v)
    torch.testing.assert_close(operator.gram(v, weights), expected, rtol=1e-11, atol=1e-13)
    narrow = operator.scaled(0 * weights, 0 * v, storage=torch.float32).gram(v, weights)
    torch.testing.assert_close(narrow, expected, rtol=1e-5, atol=1e-5)


def test_a_part_of_the_points_is_a_part_of_the_matrix():
    x, y, u, v = normal(2, 9, 3), normal(2, 7, 3, seed=1), normal(2, 9, seed=2), normal(2, 7, seed=3)
    operator = stream(Gaussian(0.8), x, y, epsilon=torch.tensor([0.3, 0.7])).scaled(u, v)
    rows, columns = torch.tensor([4, 0, 8]), torch.tensor([1, 6])
    whole = operator.dense()
    torch.testing.assert_close(operator.take(rows, columns).dense(), whole[:, rows][..., columns], rtol=1e-13, atol=0)
    torch.testing.assert_close(operator.take(columns=columns).dense(), whole[..., columns], rtol=1e-13, atol=0)
    assert operator.take(rows).shape == (3, 7)


def test_sums_and_logarithms_are_as_accurate_as_is_asked_for():
    """Float32 in the middle, float64 at both ends: what is rounded is the entries, not what they add up to."""
    x, y = normal(4000, 2), normal(300, 2, seed=1)
    operator = stream(Gaussian(), x, y, epsilon=0.1)
    zeros = [torch.zeros(size, dtype=torch.float64) for size in operator.shape]
    coarse = operator.scaled(*zeros, accuracy=1e-4)
    for rough, true in zip(coarse.sums(), operator.sums(), strict=True):
        assert rough.dtype == torch.float64
        assert 1e-12 < float((rough / true - 1).abs().max()) < 1e-4
    rough, true = coarse.log_rmatvec(zeros[0]), operator.log_rmatvec(zeros[0])
    assert rough.dtype == torch.float64
    assert 1e-12 < float((rough - true).abs().max()) < 1e-4
    assert torch.equal(operator.scaled(*zeros, accuracy=1e-7).sums()[0], operator.sums()[0])
