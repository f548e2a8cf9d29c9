"""The Gaussian kernel against its formula in numpy."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from atlas_kernels_builtin import Gaussian


@pytest.mark.parametrize("bandwidth", [0.3, 1.0, 4.0])
def test_equals_its_formula(bandwidth):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 7)), rng.normal(size=(30, 7))
    expected = -((x[:, None] - y[None]) ** 2).sum(-1) / (2 * bandwidth**2)
    got = Gaussian(bandwidth).log_kernel(torch.tensor(x), torch.tensor(y))
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_exactly_one_on_the_diagonal_even_far_from_the_origin(dtype):
    x = torch.randn(40, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype) + 1e4
    log_k = Gaussian().log_kernel(x, x)
    assert log_k.dtype == dtype
    assert torch.equal(log_k.diagonal(), torch.zeros(40, dtype=dtype))


def test_gradient_is_that_of_the_squared_distance_and_zero_on_the_diagonal():
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    y = torch.cat([x.detach()[:4], x.detach()[4:] + 1])
    Gaussian(2.0).log_kernel(x, y).sum().backward()
    expected = -(x.detach()[:, None] - y[None]).sum(1) / 4
    torch.testing.assert_close(x.grad, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0])
def test_names_the_field_that_is_out_of_range(bandwidth):
    with pytest.raises(ValueError, match="bandwidth"):
        Gaussian(bandwidth)


def test_survives_a_pickle():
    assert pickle.loads(pickle.dumps(Gaussian(0.25))) == Gaussian(0.25)  # noqa: S301 - our own bytes
