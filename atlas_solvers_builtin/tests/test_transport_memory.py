"""Memory beyond the points: one float32 matrix and half of one, or two while a sparse one is built."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("memory_child.py")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell what is resident")
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
    done = subprocess.run(
        [sys.executable, str(CHILD), str(dimension), str(epsilon), dtype, str(offset)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["stored"], found["status"]) == (stored, "converged")
    assert 0.2 < found["extra"] < limit  # less than a fifth would mean that nothing was measured
