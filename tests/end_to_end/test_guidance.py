"""Guidance from a config to samples: each kind is told apart, weak models are found or asked for, mistakes named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from atlas_core import load
from atlas_core.errors import AtlasError, ConfigError, UsageError
from atlas_core.pipeline import Pipeline
from atlas_core.runs.folder import RunFolder


def drawn(run: Path, guidance: str, *more: str) -> torch.Tensor:
    pipeline = load(run, [f"sampling.guidance={guidance}", *more])
    return pipeline.sample(3, seed=5, condition=[1, 4, 7], nfe=4)


def test_each_guidance_draws_its_own_samples(digits_run: Path) -> None:
    tables = [
        "{use='none'}",
        "{use='cfg', scale=4}",
        "{use='cfg-rescale', scale=4}",
        "{use='cfg-interval', scale=4}",
        "{use='apg', scale=4}",
        "{use='autoguidance', scale=4}",
        "{use='autoguidance', scale=4, weights='raw'}",
        "{use='clip', quantile=0.5, guidance={use='cfg', scale=4}}",
    ]
    samples = [drawn(digits_run, table) for table in tables]
    for i, one in enumerate(samples):
        assert one.isfinite().all()
        assert all(not torch.allclose(one, other, atol=1e-4) for other in samples[:i]), tables[i]
    for table in ("{use='cfg', scale=1}", "{use='autoguidance', scale=1}"):
        assert torch.equal(drawn(digits_run, table), samples[0])


def test_the_weak_model_is_the_earliest_checkpoint_or_the_one_that_is_named(digits_run: Path, tmp_path: Path) -> None:
    kept = sorted(path.name for path in (digits_run / "checkpoints").iterdir())
    earliest = drawn(digits_run, "{use='autoguidance', scale=3}")
    assert torch.equal(drawn(digits_run, f"{{use='autoguidance', scale=3, checkpoint='{kept[0]}'}}"), earliest)
    elsewhere = digits_run / "checkpoints" / kept[0]
    assert torch.equal(drawn(digits_run, f"{{use='autoguidance', scale=3, checkpoint='{elsewhere}'}}"), earliest)
    middle = drawn(digits_run, f"{{use='autoguidance', scale=3, checkpoint='{kept[1]}'}}")
    assert not torch.allclose(middle, earliest, atol=1e-4)
    for checkpoint, error, message in (
        (kept[-1], UsageError, "very model"),
        ("step-00000001", UsageError, "no checkpoint step-00000001"),
        (tmp_path / "lost", AtlasError, "lost"),
    ):
        with pytest.raises(error, match=message):
            drawn(digits_run, f"{{use='autoguidance', checkpoint='{checkpoint}'}}")


def test_a_run_can_be_guided_by_its_own_past_from_the_first_preview_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["train.steps=4", "train.batch=8", "train.checkpoint_every=2", "train.sample_every=1", "sampling.nfe=2"]
    pipeline = Pipeline.from_config(
        "digits", [*short, "model.channels=8", "sampling.guidance={use='autoguidance', scale=2}"]
    )
    pipeline.run = RunFolder.create(tmp_path, "own")
    pipeline.train()
    # Before the second step there is no checkpoint to lead away from, hence no picture.
    assert sorted(path.name for path in (tmp_path / "own" / "samples").iterdir()) == [
        "step-00000003.png",
        "step-00000004.png",
    ]
    assert pipeline.sample(2, condition=[1, 2]).isfinite().all()
    single = tmp_path / "single"
    shutil.copytree(tmp_path / "own", single)
    shutil.rmtree(single / "checkpoints" / "step-00000002")
    with pytest.raises(UsageError, match="very model"):
        load(single).sample(1, condition=[1])
    with pytest.raises(AtlasError, match="lost"):
        Pipeline.from_config("digits", [*short, "sampling.guidance={use='autoguidance', checkpoint='./lost'}"]).train()
    assert not (tmp_path / "runs").exists()  # refused before anything was made


def test_what_cannot_be_guided_is_refused_before_training() -> None:
    for overrides, message in (
        (["conditioner='null'", "sampling.guidance={use='apg'}"], "there is no conditioner"),
        (["conditioner.dropout=0", "sampling.guidance={use='clip', guidance={use='cfg'}}"], "never trained"),
        (["sampling.guidance={use='cfg-interval', low=3, high=2}"], "above low"),
    ):
        with pytest.raises(ConfigError) as error:
            Pipeline.from_config("digits", overrides)
        assert message in str(error.value)
    points = ["data={use='gaussian-mixture'}", "model={use='mlp'}", "conditioner='null'"]
    with pytest.raises(ConfigError, match=r"limits.*missing|least and largest"):
        Pipeline.from_config("digits", [*points, "sampling.guidance={use='clip'}"])
