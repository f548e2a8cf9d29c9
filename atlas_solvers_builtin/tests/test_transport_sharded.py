"""Two ranks, each with half of the rows, are one process with all of them."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from atlas_kernels_builtin.ranks.sharded import Sharded

from atlas_kernels_builtin import Gaussian, operator_of

CHILD = Path(__file__).with_name("sharded_child.py")
sys.path.insert(0, str(CHILD.parent))  # no package holds the tests
child = importlib.import_module("sharded_child")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    pytest.importorskip("torch.distributed.run")
    folder = tmp_path_factory.mktemp("ranks")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    command = [*torchrun, "--rdzv-endpoint=localhost:0", str(CHILD), str(folder)]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("problem", ["single", "batch"])
def test_every_product_equals_that_of_one_process(ranks, problem):
    expected = child.products(Gaussian(0.8), () if problem == "single" else (2,))
    for found in ranks:
        assert found[problem].keys() == expected.keys()
        for name, truth in expected.items():
            torch.testing.assert_close(found[problem][name], truth, rtol=1e-12, atol=1e-14, msg=name)


def test_the_solver_runs_unchanged_and_finds_the_same_plan_and_gradients(ranks):
    expected = child.solution(Gaussian(0.8))
    for found in ranks:
        for name, truth in expected.items():
            torch.testing.assert_close(found["solution"][name], truth, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("what", ["potentials", "others"])
def test_so_do_implicit_derivatives_and_all_other_solvers(ranks, what):
    expected = getattr(child, what)(Gaussian(0.8))
    for found in ranks:
        assert found[what].keys() == expected.keys()
        for name, truth in expected.items():
            torch.testing.assert_close(
                found[what][name], truth, rtol=1e-7, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_a_unit_that_is_a_mean_is_one_of_all_ranks(ranks):
    for what, truth in child.units(False).items():
        for found in ranks:
            torch.testing.assert_close(found["units"][what], truth, rtol=1e-7, atol=1e-9, msg=what)


def test_the_ranks_agree_to_the_last_bit_and_share_the_rows(ranks):
    for problem in ("single", "batch", "solution", "potentials", "others", "units"):
        for name in ranks[0][problem]:
            assert torch.equal(ranks[0][problem][name], ranks[1][problem][name]), name
    assert [found["own rows"] for found in ranks] == [30, 31]


def test_the_error_estimate_is_honest_within_a_factor_of_two(ranks):
    x, y = child.cloud(child.N, 0, torch.float32), child.cloud(child.M, 1, torch.float32)
    v = torch.randn(child.M, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    truth = Gaussian(0.8).log_kernel(x.double(), y.double()).exp() @ v
    error = float((operator_of(Gaussian(0.8), x, y).matvec(v.float()).double() - truth).norm() / truth.norm())
    assert ranks[0]["estimate"] == ranks[1]["estimate"]
    assert ranks[0]["estimate"].value / 2 <= error <= 2 * ranks[0]["estimate"].value


def test_ranks_that_do_not_fit_together_are_named_on_every_rank(ranks):
    for found in ranks:
        early, points, kernels, too_many = found["refusals"]
        assert "init_process_group" in early
        assert "hold other points" in points
        assert "rank(s) 1 hold other kernels" in kernels
        assert "cannot be split over 2 ranks" in too_many


def test_in_a_process_on_its_own_it_is_the_kernel_inside():
    x, y = child.cloud(9, 0), child.cloud(8, 1)
    sharded = operator_of(Sharded(kernel=Gaussian(0.8)), x, y, epsilon=0.3)
    assert type(sharded) is type(operator_of(Gaussian(0.8), x, y))
    assert torch.equal(sharded.dense(), operator_of(Gaussian(0.8), x, y, epsilon=0.3).dense())
