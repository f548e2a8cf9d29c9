"""Flow maps from a config to samples: the model is told where steps end, and what does not fit is refused before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from atlas_core import load
from atlas_core.errors import ConfigError
from atlas_core.pipeline import Pipeline
from atlas_core.runs.folder import RunFolder

POINTS = """
[data]
use = "gaussian-mixture"
train = 200
test = 50

[process]
use = "rectified-flow"

[parametrization]
use = "velocity"
level = "time"

[model]
use = "mlp"
width = 16
blocks = 1

[objective]
use = "flow-map"

[sampler]
use = "flow-map"

[train]
steps = 4
batch = 32
validate_every = 2
sample_every = 0
checkpoint_every = 2

[sampling]
nfe = 2
grid = { use = "uniform" }
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "points.toml"
    path.write_text(POINTS)
    return path


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["objective.derivative=finite-difference", "conditioner.use=class-label", "conditioner.width=4"],
        ["objective.target=shortcut"],
        ["objective.target=consistency", "sampler.between=renoise"],
    ],
    ids=str,
)
def test_it_trains_resumes_and_samples_from_its_checkpoint(config: Path, tmp_path: Path, overrides: list[str]) -> None:
    weights = []
    for name, steps in (("whole", ["4"]), ("cut", ["2", "4"])):
        run = RunFolder.create(tmp_path, name)
        for step in steps:
            pipeline = Pipeline.from_config(config, [*overrides, f"train.steps={step}", "train.schedule=constant"], run)
            assert pipeline.plan.model.settings["jumps"] is True
            pipeline.train(resume=step != steps[0])
        weights.append(pipeline.network.state_dict())
        reopened = load(run.path)
        assert torch.equal(reopened.sample(3, seed=1), pipeline.sample(3, seed=1))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert any(key.endswith("end.weight") and tensor.any() for key, tensor in weights[0].items())


def test_its_network_is_a_denoiser_too(config: Path, tmp_path: Path) -> None:
    taught = ["train.steps=60", "train.warmup_steps=0", "train.learning_rate=0.02", "train.ema_decay=0"]
    Pipeline.from_config(config, taught, RunFolder.create(tmp_path, "map")).train()
    samples = []
    for overrides in ([], ["sampler.use=heun", "sampling.nfe=9"], ["sampler.between=renoise"]):
        samples.append(load(tmp_path / "map", overrides).sample(3))
        assert all(not torch.allclose(samples[-1], other, atol=1e-3) for other in samples[:-1])
    once = load(tmp_path / "map", ["sampler.between=renoise"])
    assert torch.equal(once.sample(3, nfe=1), load(tmp_path / "map").sample(3, nfe=1))


@pytest.mark.parametrize(
    ("overrides", "where", "message"),
    [
        (["objective.target=consistency"], "$.sampler.use", "integrates flow-map; .*flow-map trains a endpoint"),
        (["objective.target=consistency", "sampler.use=heun"], "$.sampler.use", "trains a endpoint"),
        (["objective.use=denoising"], "$.sampler.use", "trains a denoiser"),
        (["model.jumps=false"], "$.model.jumps", "is not told where a step ends"),
        (["objective.target=shortcut", "objective.derivative=jvp"], "$.objective", "derivative has no effect"),
        (
            ["objective.target=consistency", "sampler.between=renoise", "parametrization.use=x0"],
            "$.objective",
            "X0 does not: take edm",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    config: Path, overrides: list[str], where: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        Pipeline.from_config(config, overrides)
    assert where in [problem.where for problem in error.value.problems]


def test_an_objective_of_another_kind_leaves_the_model_as_it_was(config: Path) -> None:
    plan = Pipeline.from_config(config, ["objective.use=flow-matching", "sampler.use=euler"]).plan
    assert plan.model.settings["jumps"] is False
