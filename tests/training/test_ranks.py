"""Two ranks of half a batch are one rank of the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_training as tiny
import torch

from atlas_core.engine.checkpoint import open_checkpoint
from atlas_core.runs.folder import RunFolder

CHILD = Path(__file__).with_name("resume_child.py")


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--coupled"]], ids=["plain", "coupled"])
def test_two_ranks_train_what_one_rank_trains(tmp_path, options):
    """Gradients are summed in another order: 1e-5 after 60 steps, on weights of order one; journals likewise.

    Coupled, on 9 rows over 2 ranks: pairs across the ranks, and shares of different sizes.
    """
    pytest.importorskip("torch.distributed.run")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    command = [*torchrun, "--rdzv-endpoint=localhost:0", str(CHILD), str(tmp_path / "two"), "--still", *options]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    coupled = (tiny.config(batch=9), tiny.Coupled()) if options else (None, tiny.Regression())
    tiny.trainer(tmp_path / "one", coupled[0], network=tiny.tiny(dropout=0.0), objective=coupled[1]).fit()
    for which in ("raw", "ema"):
        one, two = (open_checkpoint(tmp_path / name).load_networks(which)["denoiser"] for name in ("one", "two"))
        for name in one:
            torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-4)
    rows = [RunFolder(tmp_path / name).journal.rows() for name in ("one", "two")]
    for one, two in zip(*rows, strict=True):
        for name in one.keys() - {"seconds"}:
            assert two[name] == pytest.approx(one[name], rel=1e-4), (name, one["step"])
