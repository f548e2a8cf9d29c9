"""Parts that do not fit each other are refused before training, with what would fit."""

from __future__ import annotations

from typing import Any

import pytest

from atlas_core.errors import ConfigError
from atlas_core.plugins.registry import Registry

PIPELINE = """\
[data]
use = "scans"
[model]
use = "net"
[conditioner]
use = "label"
"""


@pytest.mark.parametrize(
    ("overrides", "where", "message", "hint"),
    [
        (
            ["sampler=drift"],
            "$.sampler.use",
            "integrates dynamics; atlas-solvers-builtin:denoising trains a denoiser",
            "list-plugins",
        ),
        (["objective=bridge"], "$.sampler.use", "acme-parts:bridge trains a dynamics", ""),
        (
            ["sampling.guidance=cfg", "conditioner=null"],
            "$.sampling.guidance.use",
            "there is no conditioner",
            "[conditioner]",
        ),
        (["sampling.guidance=cfg", "conditioner.dropout=0"], "$.sampling.guidance.use", "dropout = 0", "dropout=0.1"),
        (["sampling.guidance=weak"], "$.sampling.guidance.use", "needs weak-model", "cfg or none"),
        (
            ["sampling.guidance=momentum", "sampler=adaptive", "sampling.steps=4"],
            "$.sampling.guidance.use",
            "adaptive",
            "multistep",
        ),
        (["sampling.nfe=9", "sampling.steps=9"], "$.sampling.steps", "sampling.nfe = 9 is given", "Leave one out"),
        (["sampling.nfe=1", "sampler=heun"], "$.sampling.nfe", "one step takes 2 calls", "sampling.nfe=2"),
        (["sampling.grid=upwards"], "$.sampling.grid", "do not strictly decrease", "decreasing from t_max"),
        (["sampling.grid=lost"], "$.sampling.grid", "gives no 20 steps on atlas-solvers-builtin:edm: KeyError", ""),
        (["sampler=adaptive"], "$.sampling.steps", "chooses its own steps", "sampling.steps=20"),
        (["model=blind"], "$.model.use", "takes no condition vector, but acme-parts:label makes one of width 16", ""),
        (
            ["model.condition_width=8"],
            "$.model.condition_width",
            "of width 8, acme-parts:label makes one of width 16",
            "derived",
        ),
        (["data.classes=0"], "$.conditioner.use", "wants classes, and the data has none", "Leave [conditioner] out"),
        (
            ["process=line", "parametrization=eps"],
            "$.parametrization.use",
            "alpha is 0 at t = 1",
            "On line: edm. For eps: edm.",
        ),
        (
            ["evaluate.split=tset", "evaluate.metrics=['score']"],
            "$.evaluate.split",
            'no split "tset"; it has train, test',
            "'test'",
        ),
        (
            ["evaluate.metrics=[{use='score', solver={use='sinkhorn', kernel='signed'}}]"],
            "$.evaluate.metrics[0].solver.kernel.use",
            "is signed",
            "gaussian",
        ),
    ],
)
def test_what_does_not_fit(
    document: Any, registry: Registry, overrides: list[str], where: str, message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        document(PIPELINE, *overrides).resolve(registry)
    (problem,) = caught.value.problems
    assert problem.where == where
    assert message in problem.message
    assert hint in problem.hint


@pytest.mark.parametrize(
    "overrides",
    [
        ["sampling.guidance=cfg"],
        ["sampling.guidance=momentum"],
        ["sampler=adaptive", "sampling.steps=4", "sampling.guidance=cfg"],
        ["objective=bridge", "sampler=drift"],
        ["parametrization=eps"],
        ["process=line"],
        ["sampling.nfe=2", "sampler=heun"],
        ["model=blind", "conditioner=null"],
        ["data.classes=0", "conditioner=null"],
        ["evaluate.split=tset"],
        ["evaluate.metrics=[{use='score', solver={use='sinkhorn', kernel='gauss'}}]"],
    ],
)
def test_what_fits(document: Any, registry: Registry, overrides: list[str]) -> None:
    document(PIPELINE, *overrides).resolve(registry)


def test_looking_at_parts_leaves_random_numbers_alone(
    document: Any, registry: Registry, parts: Any, monkeypatch: Any
) -> None:
    import torch

    def drawing(self: Any, config: Any) -> None:
        torch.rand(3)

    conditioner = type(
        "Drawing", (), {"Config": parts.Label, "__init__": drawing, "widths": {"vector": 16}, "dropout": 0.1}
    )
    conditioner.encode, conditioner.null = parts.Label.encode, parts.Label.null  # type: ignore[attr-defined]
    monkeypatch.setattr(parts, "Label", conditioner)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    plan = document(PIPELINE).resolve(registry)
    assert torch.equal(torch.get_rng_state(), before)
    plan.conditioner.build()
    assert not torch.equal(torch.get_rng_state(), before)
