"""How often a solve stops the device to look at a number: counted where torch hands one to Python."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
import torch
from atlas_kernels_builtin.exact.exact_kernels import Streaming
from atlas_solvers_builtin.transport.balanced.sinkhorn import Sinkhorn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from atlas_kernels_builtin import SquaredEuclidean

ATEN = torch.ops.aten
LOOKS = (ATEN._local_scalar_dense, ATEN.equal, ATEN.nonzero, ATEN.masked_select)
"""What `item`, `bool`, `float`, `equal` and indices by a mask come down to; `tolist` reads past the dispatcher."""

KERNELS = {"dense": SquaredEuclidean(), "streamed": Streaming(kernel=SquaredEuclidean())}
EVERY = 10
OF_A_ROUND = 12
"""Looks around one absorption of the potentials: what stage it is, what a build needs to know, what it has reached."""
OF_A_SOLVE = 50
"""Looks at the input, for the fastest exact blocks, and for what the solution says of itself."""


class Looks(TorchDispatchMode):
    """Counts them by the function of ours that asked."""

    def __init__(self):
        super().__init__()
        self.of = Counter()
        self.lists = Lists(self)

    def __enter__(self):
        self.lists.__enter__()
        return super().__enter__()

    def __exit__(self, *failure):
        super().__exit__(*failure)
        self.lists.__exit__(*failure)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in LOOKS:
            self.note()
        return function(*args, **(kwargs or {}))

    def note(self):
        frame = sys._getframe(1)
        while "/atlas_" not in frame.f_code.co_filename.replace("\\", "/") or "/tests/" in frame.f_code.co_filename:
            frame = frame.f_back
        self.of[frame.f_code.co_name] += 1


class Lists(TorchFunctionMode):
    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.tolist:
            self.looks.note()
        return function(*args, **(kwargs or {}))


def clouds(*batch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*batch, 120, 2, generator=generator, dtype=torch.float64)
    return x, 0.7 * torch.randn(*batch, 110, 2, generator=generator, dtype=torch.float64) + 0.4


def solved(batch=(), **options):
    solver = Sinkhorn(check_every=EVERY, tolerance=1e-6, max_iterations=3000, **options)
    with Looks() as looks:
        solution = solver.solve(*clouds(*batch))
    assert set(solution.status) == {"converged"}
    return looks.of, solution


@pytest.mark.parametrize("batch", [(), (3,)], ids=["single", "batch"])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize(
    ("method", "epsilon", "least"), [("newton", 4e-3, 100), ("newton", 2e-2, 40), ("sinkhorn", 5e-2, 100)]
)
def test_the_host_looks_once_in_check_every_iterations(method, epsilon, least, kernel, batch):
    looks, solution = solved(batch, kernel=kernel, epsilon=epsilon, method=method)
    rounds, newton_steps = looks["solve_rounds"], looks["newton_step"]
    assert solution.iterations > least
    # Conjugate gradients of a Newton step, and what is solved on a plan, each end with a block that is not whole. A
    # batch goes on as long as its slowest problem, which need not be the same one throughout.
    blocks = solution.iterations / EVERY * max((1, *batch))
    assert looks["conjugate_gradients"] + looks["improve"] <= blocks + 2 * newton_steps + 2 * rounds
    assert sum(looks.values()) <= blocks + 3 * newton_steps + OF_A_ROUND * rounds + OF_A_SOLVE
    assert "sweep" not in looks
    assert "__matmul__" not in looks


def test_in_the_log_domain_too():
    looks, solution = solved(kernel=SquaredEuclidean(), epsilon=5e-2, method="log")
    assert solution.iterations > 50
    assert looks["solve_in_logarithms"] == solution.iterations / EVERY
    assert sum(looks.values()) <= solution.iterations / EVERY + OF_A_SOLVE


def test_what_is_counted_are_looks():
    with Looks() as looks:
        solution = Sinkhorn(kernel=SquaredEuclidean(), check_every=1, epsilon=5e-2, method="log").solve(*clouds())
    assert looks.of["solve_in_logarithms"] == solution.iterations
    assert looks.of["check_points"] == 4
