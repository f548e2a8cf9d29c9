"""Memory beyond the points: one float32 matrix and half of one, or two while a sparse one is built."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("memory_child.py")


pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the system does not tell what is resident"
)


def memory_of(*arguments):
    command = [sys.executable, str(CHILD), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("dimension", "epsilon", "dtype", "offset", "stored", "limit"),
    [
        pytest.param(2, 0.1, "float64", 0, "DenseMatrix", 1.5, id="dense"),
        pytest.param(784, 0.1, "float64", 0, "DenseMatrix", 1.5, id="784-dimensions"),
        pytest.param(784, 0.1, "float32", 1e3, "DenseMatrix", 1.5, id="far-from-the-origin"),
        pytest.param(2, 3e-3, "float64", 0, "SparseMatrix", 2.0, id="sparse"),
    ],
)
def test_a_solve_takes_no_more_memory_than_its_matrix_and_half_of_one(dimension, epsilon, dtype, offset, stored, limit):
    found = memory_of(dimension, epsilon, dtype, offset, 4000, 0)
    assert (found["stored"], found["status"]) == (stored, "converged")
    assert 0.2 < found["extra"] < limit  # less than a fifth would mean that nothing was measured


def test_a_streamed_solve_takes_some_blocks_and_vectors():
    """9000 × 9000: 4 % of a float32 matrix are 13 MB; a block is 0.25, a vector 0.07."""
    found = memory_of(2, 0.1, "float64", 0, 9000, 2**18)
    assert (found["stored"], found["status"]) == ("nothing", "converged")
    assert found["extra"] < 0.04
