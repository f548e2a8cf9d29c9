"""A run that was killed and resumed has the bits of one that was not."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_training as tiny
import torch

from atlas_core.engine.checkpoint import Checkpoint, open_checkpoint
from atlas_core.engine.training.resume import check_counters
from atlas_core.errors import CheckpointError, UsageError
from atlas_core.runs.atomic import TEMPORARY
from atlas_core.runs.folder import RunFolder

CHILD = Path(__file__).with_name("resume_child.py")


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _no_child_survives():
    yield
    while STARTED:
        STARTED.pop().kill()


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(CHILD), str(folder), *options]
    STARTED.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    return STARTED[-1]


def read_until(child: subprocess.Popen[str], last: str) -> list[str]:
    lines = []
    for line in child.stdout:
        lines.append(line.strip())
        if lines[-1] == last:
            return lines
    raise AssertionError(f"the child ended before {last!r}: {lines[-3:]}\n{child.stderr.read()}")


def finish(child: subprocess.Popen[str]) -> str:
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    return out.splitlines()[-1]


def kill(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=30)
    assert child.returncode == -signal.SIGKILL


def state_of(folder: Path) -> dict[str, bytes]:
    """Every bit of the newest checkpoint that a run's future depends on."""
    checkpoint = open_checkpoint(folder)
    checkpoint.verify()
    counters = {name: value for name, value in checkpoint.counters.items() if name != "seconds"}
    tensors = {f"raw.{k}": v for k, v in checkpoint.load_networks("raw")["denoiser"].items()}
    tensors |= {f"ema.{k}": v for k, v in checkpoint.load_networks("ema")["denoiser"].items()}
    tensors |= {f"optimizer.{k}": v for k, v in checkpoint.load_optimizer().items()}
    bits = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    return bits | {"counters": json.dumps([checkpoint.step, counters]).encode()}


def journal_of(folder: Path) -> list[dict[str, object]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in RunFolder(folder).journal.rows()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reference") / "run"
    assert finish(start(folder)) == "ended 60 finished"
    return folder


def test_three_kills_at_random_moments_change_no_bit(tmp_path, uninterrupted):
    """One between steps before the first checkpoint, one inside the write of a checkpoint, one after: then it ends."""
    chance = random.Random()
    early, late = chance.randrange(2, 10), chance.randrange(31, 59)
    folder = tmp_path / "run"

    child = start(folder, "--slow")
    read_until(child, str(early))
    time.sleep(chance.random() * 0.02)
    kill(child)

    child = start(folder, "--slow", "--stop-inside", "30")
    assert "10" in read_until(child, "INSIDE"), "it has to start from the first step: there was no checkpoint"
    half_written = [entry for entry in (folder / "checkpoints").iterdir() if entry.name.startswith(TEMPORARY)]
    assert len(half_written) == 1
    kill(child)
    assert RunFolder(folder).latest_checkpoint().name == "step-00000020", "a partial checkpoint was taken for one"

    child = start(folder, "--slow")
    lines = read_until(child, str(late))
    assert lines[0] == "21"
    time.sleep(chance.random() * 0.02)
    kill(child)

    assert finish(start(folder)) == "ended 60 finished"
    assert state_of(folder) == state_of(uninterrupted), f"killed at steps {early}, 30 (inside a checkpoint) and {late}"
    assert journal_of(folder) == journal_of(uninterrupted)
    assert not list((folder / "checkpoints").glob(f"{TEMPORARY}*"))


def test_a_signal_ends_the_run_at_a_step_with_a_checkpoint(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    for number, at in ((signal.SIGINT, 13), (signal.SIGTERM, 37)):
        child = start(folder, "--slow")
        read_until(child, str(at))
        child.send_signal(number)
        _, steps, stopped = finish(child).split()
        assert stopped == number.name
        assert at <= int(steps) < 60
        assert open_checkpoint(folder).step == int(steps)
    assert finish(start(folder)) == "ended 60 finished"
    assert state_of(folder) == state_of(uninterrupted)
    assert journal_of(folder) == journal_of(uninterrupted)


def test_the_bits_are_those_of_another_run_if_anything_is_not_keyed(tmp_path, uninterrupted):
    """The comparison can fail: another seed of the run, or no augmentation, gives other bits."""
    tiny.trainer(tmp_path / "seed", tiny.config(seed=4)).fit()
    tiny.trainer(tmp_path / "plain", dataset=tiny.Points(augmented=False)).fit()
    tiny.trainer(tmp_path / "still", network=tiny.tiny(dropout=0.0)).fit()
    reference = state_of(uninterrupted)
    for name in ("seed", "plain", "still"):
        other = state_of(tmp_path / name)
        assert all(other[key] != reference[key] for key in ("raw.net.0.weight", "ema.net.0.weight"))


def test_nothing_of_the_process_leaks_into_the_run_nor_back(tmp_path, uninterrupted):
    """The global generator is neither read nor left changed; an uninterrupted run in another process is the same."""
    torch.set_num_threads(1)
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    tiny.trainer(tmp_path / "run").fit()
    assert torch.equal(torch.rand(3), expected)
    assert state_of(tmp_path / "run") == state_of(uninterrupted)


# ---- with another config -----------------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path) -> Path:
    tiny.trainer(tmp_path / "run", tiny.config(steps=20)).fit()
    return tmp_path / "run"


def test_more_steps_are_allowed_and_said(stopped):
    with pytest.warns(UserWarning, match=r"train\.steps: 20 in the checkpoint, 30 now"):
        result = tiny.trainer(stopped, tiny.config(steps=30)).fit(resume=True)
    assert result.steps == 30
    assert result.notes == ("train.steps: 20 in the checkpoint, 30 now",)
    assert open_checkpoint(stopped).step == 30


def test_everything_that_makes_it_another_run_is_listed_at_once(stopped):
    table = {"model": {"use": "tiny", "width": 16}, "data": {"use": "points", "root": "/elsewhere"}}
    settings = tiny.config(steps=30, seed=9, batch=16)
    with pytest.raises(UsageError) as error:
        tiny.trainer(stopped, settings, table=table, dataset=tiny.Points(count=40)).fit(resume=True)
    text = str(error.value)
    assert "$.train.seed: 3 in the checkpoint, 9 now" in text
    assert "$.train.batch: 8 in the checkpoint, 16 now" in text
    assert "$.model.width: 8 in the checkpoint, 16 now" in text
    assert "$.data: 37 examples in the checkpoint, 40 now" in text
    assert "$.data.root" not in text, "a data set may have moved"
    assert open_checkpoint(stopped).step == 20


def test_what_only_observes_may_change_in_silence(stopped, recwarn):
    settings = tiny.config(steps=20, log_every=1, validate_every=0, checkpoint_every=3, keep_checkpoints=1)
    result = tiny.trainer(stopped, settings).fit(resume=True)
    assert (result.steps, result.notes) == (20, ())
    assert not [w for w in recwarn if "setting" in str(w.message)]


def test_starting_over_an_earlier_training_is_refused(stopped):
    with pytest.raises(UsageError, match=r"earlier training(.|\n)*--resume"):
        tiny.trainer(stopped).fit()


def test_resuming_before_the_first_checkpoint_starts_from_the_beginning(tmp_path):
    run = RunFolder.create(tmp_path, "run")
    run.journal.append(7, {"loss": 1.0})
    result = tiny.trainer(run.path, tiny.config(steps=8)).fit(resume=True)
    assert result.notes == ("there was no checkpoint yet: it starts from step 0",)
    assert [row["step"] for row in run.journal.rows()] == [7, 8]


def test_a_damaged_checkpoint_does_not_resume_and_names_the_older_one(stopped):
    newest, older = stopped / "checkpoints/step-00000020", stopped / "checkpoints/step-00000010"
    (newest / "optimizer.safetensors").write_bytes(b"\0" * (newest / "optimizer.safetensors").stat().st_size)
    with pytest.raises(CheckpointError) as error:
        tiny.trainer(stopped, tiny.config(steps=20)).fit(resume=True)
    assert f"{newest} is damaged: optimizer.safetensors" in str(error.value)
    assert f"{older} is intact" in str(error.value)


def test_a_network_of_another_shape_is_refused_with_its_names(stopped):
    network = tiny.tiny(conditioner=False)
    with pytest.raises(CheckpointError, match=r"does not fit the network 'denoiser': conditioner\.table\.weight"):
        tiny.trainer(stopped, tiny.config(steps=20), network=network).fit(resume=True)


@pytest.mark.parametrize(
    "change",
    [{"window": None}, {"window": {"loss": 3}}, {"seconds": "long"}, {"ema_updates": None}, {"scaler": 5}],
)
def test_counters_that_are_damaged_are_a_damaged_checkpoint(change):
    good = {"window": {"loss": [1.0, 2]}, "seconds": 1.5, "ema_updates": 3, "scaler": {}}
    check_counters(Checkpoint(Path("step-1"), 1, {}, {}, good, {}))
    for counters in (good | change, {name: value for name, value in good.items() if name not in change}):
        with pytest.raises(CheckpointError, match=r"counters in its state\.json"):
            check_counters(Checkpoint(Path("step-1"), 1, {}, {}, counters, {}))
