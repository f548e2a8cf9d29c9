"""The operator of stored entries against the matrix written out in float64, whatever it is stored as."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from atlas_kernels_builtin.exact import blocks
from atlas_kernels_builtin.exact.dense import dense_operator
from atlas_kernels_builtin.exact.exact_operator import exact_operator
from atlas_kernels_builtin.exact.stored import DenseMatrix, SparseMatrix

import atlas_core
from atlas_core.contracts import KernelOperator
from atlas_kernels_builtin import Energy, Gaussian, Laplacian, StreamingOperator, operator_of


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def exponents(x, y, epsilon, left, right, bandwidth=1.0):
    """log of the scaled Gaussian matrix, in float64."""
    x, y, left, right = (t.double() for t in (x, y, left, right))
    cost = (x[..., :, None, :] - y[..., None, :, :]).square().sum(-1) / (2 * bandwidth**2)
    epsilon = torch.as_tensor(epsilon, dtype=torch.float64)[..., None, None]
    return -cost / epsilon + left[..., :, None] + right[..., None, :]


def potentials(x, y, epsilon):
    """A scaling that makes most entries matter: rows of sum 1."""
    left, right = torch.zeros(x.shape[:-1]).double(), torch.zeros(y.shape[:-1]).double()
    return -exponents(x, y, epsilon, left, right).logsumexp(-1).to(x.dtype), right.to(y.dtype)


@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("storage", [torch.float32, torch.float64, None])
def test_products_are_those_of_the_matrix_and_sums_are_not_rounded_to_the_storage(batch, dtype, storage):
    x, y = normal(*batch, 40, 3, dtype=dtype), normal(*batch, 30, 3, seed=1, dtype=dtype)
    left, right = potentials(x, y, 0.05)
    operator = operator_of(Gaussian(), x, y, epsilon=0.05).scaled(left, right, storage=storage)
    k = exponents(x, y, 0.05, left, right).exp()
    u, v = normal(*batch, 40, seed=2, dtype=dtype), normal(*batch, 30, seed=3, dtype=dtype)
    us, vs = normal(*batch, 40, 4, seed=4), normal(*batch, 30, 4, seed=5)
    # float32 exponents of size 50 are off by 3e-6
    exact = 1e-12 if dtype == torch.float64 else 1e-5
    rounded = exact if storage in (None, torch.float64) and dtype == torch.float64 else 1e-5

    assert isinstance(operator, KernelOperator)
    for got, expected, tolerance in (
        (operator.matvec(v), (k @ v.double()[..., None])[..., 0], rounded),
        (operator.rmatvec(u), (k.mT @ u.double()[..., None])[..., 0], rounded),
        (operator.matvec(vs), k @ vs, rounded),
        (operator.rmatvec(us), k.mT @ us, rounded),
        (operator.gram(v, u), (k.mT @ (u.double() * (k @ v.double()[..., None])[..., 0])[..., None])[..., 0], rounded),
        (operator.squared_rmatvec(u), (k.square().mT @ u.double()[..., None])[..., 0], rounded),
        (operator.sums()[0], k.sum(-1), exact),
        (operator.sums()[1], k.sum(-2), exact),
        (operator.dense(), k, exact),
        (operator.log_matvec(v), (k.log() + v.double()[..., None, :]).logsumexp(-1), 5 * exact),
    ):
        torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)
    assert operator.matvec(v).dtype == dtype
    assert operator.matvec(vs).dtype == torch.float64
    assert operator.sums()[0].dtype == dtype


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_few_entries_matter_only_those_are_stored(epsilon, dtype):
    x = normal(300, 2, dtype=dtype)
    left, right = potentials(x, x, epsilon)
    drop = 1e-8
    dense = dense_operator(Gaussian(), x, x, epsilon=epsilon).scaled(left, right, storage=torch.float32)
    sparse = dense_operator(Gaussian(), x, x, epsilon=epsilon).scaled(left, right, storage=torch.float32, drop=drop)
    k = exponents(x, x, epsilon, left, right).exp()
    u = normal(300, seed=2)
    # what is dropped is below 300 × drop; the rest is rounded to float32, in float32 exponents of up to 1e4
    close = {"rtol": 1e-6 if dtype == torch.float64 else 5e-3, "atol": 4e-6}
    for v in (u, normal(300, 3, seed=3)):
        torch.testing.assert_close(sparse.matvec(v), k @ v, **close)
        torch.testing.assert_close(sparse.rmatvec(v), k.T @ v, **close)
    torch.testing.assert_close(sparse.squared_rmatvec(u), k.square().T @ u, **close)
    torch.testing.assert_close(sparse.gram(u, u.abs()), k.T @ (u.abs() * (k @ u)), **close)
    torch.testing.assert_close(sparse.sums()[0].double(), k.sum(1), **close)
    torch.testing.assert_close(sparse.sums()[1].double(), k.sum(0), **close)
    assert isinstance(dense._stored().matrix, DenseMatrix)
    matrix = sparse._stored().matrix
    assert isinstance(matrix, SparseMatrix)
    assert matrix.by_rows.values().numel() == int((dense._stored().matrix.entries > drop).sum())


def test_operators_made_with_a_storage_share_their_memory_and_stay_right():
    x, y = normal(50, 3), normal(40, 3, seed=1)
    base = dense_operator(Gaussian(), x, y, epsilon=0.1)
    first = base.scaled(normal(50), normal(40), storage=torch.float32)
    v = normal(40, seed=5)
    before = first.matvec(v)
    memory = base.store.buffer.data_ptr()
    second = base.scaled(normal(50, seed=2), normal(40, seed=3), storage=torch.float32)
    changed = second.matvec(v)
    third = base.with_epsilon(0.3).scaled(normal(50, seed=2), normal(40, seed=3), storage=torch.float32)
    third.sums()
    assert base.store.buffer.data_ptr() == memory
    assert not torch.allclose(before, changed)
    # each computes its entries anew when it is used again
    torch.testing.assert_close(first.matvec(v), before, rtol=0, atol=0)
    torch.testing.assert_close(second.matvec(v), changed, rtol=0, atol=0)
    apart = base.scaled(normal(50), normal(40))
    apart.sums()
    assert apart.store is not base.store
    # nothing keeps an operator that is no longer used, nor its entries
    entries = weakref.ref(apart.store)
    gc.disable()
    try:
        del apart
        assert entries() is None
    finally:
        gc.enable()


def test_entries_in_memory_are_rescaled_in_high_dimension():
    x, y = normal(60, 64), normal(50, 64, seed=1)
    base = dense_operator(Gaussian(8.0), x, y, epsilon=0.05)
    left, right = normal(60), normal(50, seed=1)
    base.scaled(left, right, storage=torch.float32, accuracy=1e-4).sums()
    for step in range(12):
        left, right = left + 0.1 * normal(60, seed=step), right + 0.1 * normal(50, seed=step)
        if step == 3:
            left[7] = -torch.inf
        operator = base.scaled(left, right, storage=torch.float32, accuracy=1e-4)
        k = exponents(x, y, 0.05, left, right, bandwidth=8.0).exp()
        torch.testing.assert_close(operator.sums()[0], k.sum(1), rtol=1e-5, atol=1e-12)
        torch.testing.assert_close(operator.sums()[1], k.sum(0), rtol=1e-5, atol=1e-12)
        assert base.store.rescaled == ([1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 8])[step]
    exact = base.scaled(left, right, storage=torch.float32)
    torch.testing.assert_close(exact.sums()[0], k.sum(1), rtol=1e-12, atol=1e-12)
    assert base.store.rescaled == 0


def test_entries_in_memory_are_raised_to_a_power_for_another_epsilon():
    x, y = normal(60, 64), normal(50, 64, seed=1)
    base = dense_operator(Gaussian(8.0), x, y, epsilon=1.6)
    base.scaled(normal(60), normal(50, seed=1), storage=torch.float32, accuracy=1e-4).sums()
    for epsilon, rescaled, power in ((0.8, 1, 2), (0.2, 2, 8), (0.05, 3, 32), (0.0125, 0, 1), (0.01, 0, 1)):
        left, right = normal(60, seed=2) / epsilon, normal(50, seed=3) / epsilon
        k = exponents(x, y, epsilon, left, right, bandwidth=8.0)
        top = k.max()
        operator = base.with_epsilon(torch.tensor(epsilon, dtype=torch.float64)).scaled(
            left - top, right, storage=torch.float32, accuracy=1e-4
        )
        rows, columns = operator.sums()
        torch.testing.assert_close(rows, (k - top).exp().sum(1), rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(columns, (k - top).exp().sum(0), rtol=1e-4, atol=1e-8)
        assert (base.store.rescaled, base.store.power) == (rescaled, power)


@pytest.mark.parametrize("accuracy", [1e-2, 1e-4, 1e-6, None])
def test_entries_are_as_accurate_as_asked(accuracy):
    epsilon = 2e-3
    x, y = normal(200, 4), normal(150, 4, seed=1)
    left, right = potentials(x, y, epsilon)
    operator = dense_operator(Gaussian(), x, y, epsilon=epsilon).scaled(
        left, right, storage=torch.float64, accuracy=accuracy
    )
    k = exponents(x, y, epsilon, left, right).exp()
    error = float(((operator.sums()[0] - k.sum(1)) / k.sum(1)).abs().max())
    assert error < (2e-10 if accuracy is None else 4 * accuracy)
    if accuracy == 1e-2:
        assert error > 1e-8  # it was indeed computed in float32


def test_products_in_bands_are_those_of_the_whole_matrix():
    x, y = normal(700, 3), normal(3000, 3, seed=1)  # more than one band of 4 MiB
    operator = dense_operator(Gaussian(), x, y, storage=torch.float64)
    k = exponents(x, y, 1.0, torch.zeros(700), torch.zeros(3000)).exp()
    v, u = normal(3000, seed=2), normal(700, seed=3)
    torch.testing.assert_close(operator.gram(v, u), k.T @ (u * (k @ v)), rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("kernel", ["gaussian", "laplacian"])
def test_points_that_are_large_beside_the_matrix_are_not_copied_whole(monkeypatch, kernel, offset, batch):
    monkeypatch.setattr(blocks, "FOLDED_BYTES", 0)
    x, y = normal(*batch, 60, 300) + offset, normal(*batch, 50, 300, seed=1) + offset
    y[..., 3, :] = x[..., 5, :]
    made = Gaussian(20.0) if kernel == "gaussian" else Laplacian(20.0)
    operator = dense_operator(made, x, y, epsilon=0.5)
    assert not operator.source.exponents().blocks.folds(torch.float64)
    distance = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    k = torch.exp(-(distance.square() / 800 if kernel == "gaussian" else distance / 20) / 0.5)
    left, right = normal(*batch, 60, seed=2), normal(*batch, 50, seed=3)
    k = left.exp()[..., None] * k * right.exp()[..., None, :]
    for storage, accuracy in ((torch.float64, None), (torch.float32, None), (torch.float32, 1e-4)):
        scaled = operator.scaled(left, right, storage=storage, accuracy=accuracy)
        tolerance = 1e-9 if accuracy is None else 1e-4
        torch.testing.assert_close(scaled.sums()[0], k.sum(-1), rtol=tolerance, atol=0)
        torch.testing.assert_close(scaled.sums()[1], k.sum(-2), rtol=tolerance, atol=0)
        rounded = tolerance if storage == torch.float64 else max(tolerance, 1e-6)
        torch.testing.assert_close(
            scaled.matvec(right.exp()), (k @ right.exp()[..., None])[..., 0], rtol=rounded, atol=0
        )
    assert torch.equal(operator.source.dense()[..., 5, 3], torch.ones(batch).double())


def test_gradients_pass_through_stored_entries_to_everything():
    x, y = normal(30, 2).requires_grad_(), normal(20, 2, seed=1).requires_grad_()
    v = normal(20, seed=2).requires_grad_()
    left = normal(30, seed=3).requires_grad_()
    right = normal(20, seed=4).requires_grad_()
    inputs = (x, y, v, left, right)
    got = dense_operator(Gaussian(), x, y, epsilon=0.3).scaled(left, right).matvec(v).square().sum()
    expected = (exponents(x, y, 0.3, left, right).exp() @ v).square().sum()
    for ours, truth in zip(torch.autograd.grad(got, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-10)
    for drop in (0.0, 0.05):
        points = (x.detach(), y.detach())
        stored = dense_operator(Gaussian(), *points, epsilon=0.01).scaled(
            left.detach(), right.detach(), storage=torch.float64, drop=drop
        )
        ours = torch.autograd.grad(stored.matvec(v).square().sum(), v)
        k = exponents(*points, 0.01, left.detach(), right.detach()).exp()
        truth = torch.autograd.grad((k @ v).square().sum(), v)
        torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-10)


def test_a_kernel_without_a_product_form_and_a_signed_one_are_stored_too():
    x, y, v = normal(30, 3), normal(20, 3, seed=1), normal(20, seed=2)
    operator = dense_operator(Energy(), x, y)
    torch.testing.assert_close(operator.matvec(v), -torch.cdist(x, y) @ v)
    torch.testing.assert_close(operator.sums()[1], -torch.cdist(x, y).sum(0))
    laplacian = dense_operator(Laplacian(norm="l1"), x, y, epsilon=0.5)
    torch.testing.assert_close(laplacian.matvec(v), torch.exp(-2 * torch.cdist(x, y, p=1)) @ v)


def test_the_default_is_stored_where_it_fits_and_says_so_where_not():
    x, y, v = normal(100, 2), normal(80, 2, seed=1), normal(80, seed=2)
    stored = exact_operator(Gaussian(), x, y, memory=64_000)
    assert "100 × 80 in float64 is 0 MB" in stored.reason
    with pytest.warns(UserWarning, match="streamed, not stored: 100 × 80"):
        streamed = exact_operator(Gaussian(), x, y, memory=63_999)
    assert isinstance(streamed, StreamingOperator)
    for _ in range(3):  # the first product is streamed, then entries are stored
        torch.testing.assert_close(stored.matvec(v), streamed.matvec(v), rtol=1e-12, atol=1e-12)
    assert stored.store.buffer.shape == (1, 100, 80)
    assert "reason" in repr(stored)


@pytest.mark.parametrize("name", ["dense", "streaming"])
def test_components_wrap_any_kernel(name):
    x, y, v = normal(30, 3), normal(20, 3, seed=1), normal(20, seed=2)
    kernel = atlas_core.build("kernel", name, kernel={"use": "laplacian", "scale": 2.0})
    operator = operator_of(kernel, x, y, epsilon=0.5)
    torch.testing.assert_close(operator.matvec(v), torch.exp(-torch.cdist(x, y)) @ v)
    assert kernel.has_log


def test_the_storage_of_the_component_is_that_of_the_entries():
    x, v = normal(30, 3), normal(30, seed=2)
    operator = operator_of(atlas_core.build("kernel", "dense", storage="float32"), x, x)
    error = operator.matvec(v) - operator.dense() @ v
    assert 1e-9 < float(error.abs().max()) < 1e-5
    estimate = operator.error_estimate(30)
    assert 1e-9 < estimate.value < 1e-6
