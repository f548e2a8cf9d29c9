"""A coupling that cannot pair the data's batches is refused at its place in the config, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

CONFIG = """\
[data]
use = "digits"
[process]
use = "rectified-flow"
[model]
use = "unet"
channels = 8
[parametrization]
use = "velocity"
[objective]
use = "flow-matching"
within_condition = true
coupling = {coupling}
"""


@pytest.fixture
def dry_run(cli: Any, tmp_path: Path) -> Any:
    def call(coupling: str) -> tuple[int, str]:
        path = tmp_path / "config.toml"
        path.write_text(CONFIG.format(coupling=coupling))
        code, _, err = cli("train", path, "--dry-run")
        return code, err

    return call


@pytest.mark.parametrize(
    ("coupling", "where", "message"),
    [
        ('{use = "sinkhorn", kernel = {use = "energy"}}', "$.objective.coupling.kernel.use", "energy is signed"),
        ('{use = "exact", kernel = {use = "rff"}}', "$.objective.coupling.kernel.use", "rff is signed"),
        (
            '{use = "exact", kernel = {use = "grid", shape = [8, 8]}}',
            "$.objective.coupling.use",
            "are not those of the grid of shape (8, 8)",
        ),
        ('{use = "sinkhorn-grid"}', "$.objective.coupling.use", "needs an operator of the kernel `grid`"),
        ('{use = "barycenter"}', "$.objective.coupling.use", "a barycenter is of k clouds"),
        ('{use = "sinkhorn", epsilon = 1e-9}', "$.objective.coupling.use", "below what float32 can carry"),
    ],
)
def test_what_cannot_pair_is_named_where_it_stands(dry_run: Any, coupling: str, where: str, message: str) -> None:
    code, err = dry_run(coupling)
    assert code == 2
    assert "1 problem\n" in err
    assert f"{where} (" in err
    assert "config.toml:13)" in err
    assert message in err


@pytest.mark.parametrize(
    "coupling",
    [
        '{use = "sinkhorn", kernel = {use = "laplacian"}}',
        '{use = "exact"}',
        '{use = "low-rank"}',
        '{use = "sinkhorn", kernel = {use = "positive-rff"}}',
    ],
)
def test_what_can_pair_is_left_alone(dry_run: Any, coupling: str) -> None:
    code, err = dry_run(coupling)
    assert code == 0, err
