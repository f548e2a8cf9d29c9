"""What an operator is multiplied with: real vectors, or a word about it."""

from __future__ import annotations

import pytest
import torch
from atlas_kernels_builtin.approximate.nystroem import Nystroem
from atlas_kernels_builtin.approximate.rff import Rff
from atlas_kernels_builtin.grids.grid import Grid
from atlas_kernels_builtin.kernels.energy import Energy
from atlas_kernels_builtin.operators import operator_of

import atlas_core
from atlas_kernels_builtin import Gaussian

NAMES = ("gaussian", "dense", "streaming", "auto", "cached", "rff", "positive-rff", "nystroem")


def points(size, seed):
    return torch.randn(size, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def operators():
    x, y = points(6, 0), points(5, 1)
    for name in NAMES:
        yield operator_of(atlas_core.build("kernel", name), x, y)
    yield operator_of(Gaussian(), x, y).scaled(torch.zeros(6).double(), torch.zeros(5).double())
    grid = Grid((3, 2), kernel=Gaussian())
    separable = grid.operator(like=torch.zeros(3, 2).double())
    yield separable
    yield separable.scaled(torch.zeros(6).double(), torch.zeros(6).double())


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_integers_are_refused(dtype):
    for operator in operators():
        n, m = operator.shape
        for call, length in ((operator.matvec, m), (operator.rmatvec, n)):
            for shape in ((length,), (length, 2)):
                call(torch.ones(shape).double())
                with pytest.raises(ValueError, match=f"a vector of {dtype} cannot hold a product"):
                    call(torch.ones(shape, dtype=dtype))


def test_the_advice_for_the_energy_kernel_can_be_followed():
    x, y = points(30, 0), points(20, 1)
    with pytest.raises(ValueError, match='use `nystroem` with method = "k-means\\+\\+"'):
        operator_of(Rff(kernel=Energy()), x, y)
    found = operator_of(Nystroem(kernel=Energy(), method="k-means++"), x, y)
    torch.testing.assert_close(found.dense(), operator_of(Energy(), x, y).dense(), rtol=0, atol=1e-8)
