"""The fused GPU products against dense float64 ones: compiled where there is a GPU, interpreted everywhere."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
def test_fused_products_equal_dense_ones_in_float64(device):
    # In a process of its own: whether Triton interprets is decided when it is imported.
    environment = {**os.environ, "TRITON_INTERPRET": "1" if device == "cpu" else "0"}
    child = Path(__file__).with_name("fused_child.py")
    done = subprocess.run(
        [sys.executable, str(child), device], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
