"""Checkpoints come back bit for bit, and nothing else is ever taken for one."""

from __future__ import annotations

import json
import math
import pickle
import re
import shutil

import pytest
import torch

from atlas_core.engine.checkpoint import open_checkpoint, save
from atlas_core.errors import CheckpointError
from atlas_core.runs.atomic import TEMPORARY
from atlas_core.runs.folder import RunFolder
from atlas_core.runs.foreign import is_pickle
from atlas_core.runs.tensors import write_tensors

WEIGHTS = {"w": torch.tensor([[1.0, float("nan")], [-0.0, 3.5]]), "b": torch.arange(3, dtype=torch.bfloat16)}


def write(run: RunFolder, step: int, **changes):
    parts = {
        "networks": {"denoiser": WEIGHTS},
        "ema": {"denoiser": {"w": WEIGHTS["w"] * 2, "b": WEIGHTS["b"]}},
        "optimizer": {"denoiser.w/exp_avg": torch.ones(2, 2), "denoiser.w/step": torch.tensor(3.0)},
        "counters": {"position": 80, "ema_updates": 10},
        "table": {"model": {"use": "tiny", "shape": (1, 8, 8), "end": math.inf}},
        "lock": {"model": {"version": "1"}},
    }
    return save(run, step, **(parts | changes))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes()


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path, "digits")


def test_everything_comes_back_as_it_was(run):
    path = write(run, 3000)
    assert path.name == "step-00003000"
    opened = open_checkpoint(path)
    assert (opened.step, opened.counters) == (3000, {"position": 80, "ema_updates": 10})
    assert opened.table == {"model": {"use": "tiny", "shape": [1, 8, 8], "end": math.inf}}
    assert opened.lock == {"model": {"version": "1"}}
    raw, ema = opened.load_networks("raw")["denoiser"], opened.load_networks("ema")["denoiser"]
    assert raw.keys() == WEIGHTS.keys()
    assert same_bits(raw["w"], WEIGHTS["w"])
    assert torch.equal(raw["b"], WEIGHTS["b"])
    assert same_bits(ema["w"], WEIGHTS["w"] * 2)
    assert opened.load_optimizer()["denoiser.w/step"] == 3.0


def test_a_run_its_checkpoints_and_one_checkpoint_can_be_opened(run):
    write(run, 9)
    newest = write(run, 10)
    for path in (run.path, run.checkpoints, newest, str(run.path)):
        assert open_checkpoint(path).path == newest


def test_only_the_newest_are_kept_by_number_and_not_by_name(run):
    for step in (99_999_990, 99_999_999, 100_000_000, 100_000_010):
        write(run, step, keep=3)
    assert [path.name for path in run.all_checkpoints()] == ["step-99999999", "step-100000000", "step-100000010"]
    assert run.latest_checkpoint().name == "step-100000010"


def test_tied_weights_are_stored_once_and_views_apart(run):
    tied = torch.randn(64, 64)
    path = write(run, 1, networks={"denoiser": {"a": tied, "b": tied, "row": tied[3], "t": tied.T}})
    loaded = open_checkpoint(path).load_networks("raw")["denoiser"]
    assert loaded["a"] is loaded["b"]
    assert torch.equal(loaded["row"], tied[3])
    assert torch.equal(loaded["t"], tied.T)
    assert (path / "networks.safetensors").stat().st_size < (2 * 64 * 64 + 64) * 4 + 2000


def test_saving_a_step_again_replaces_it(run):
    write(run, 5)
    write(run, 5, counters={"position": 1})
    assert open_checkpoint(run.path).counters == {"position": 1}
    assert [entry.name for entry in run.checkpoints.iterdir()] == ["step-00000005"]


# ---- what is no checkpoint ---------------------------------------------------------------------------------


class Bomb:
    """A pickle that would tell on whoever opened it."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


@pytest.mark.parametrize("name", ["model.pt", "model.ckpt", "pytorch_model.bin", "weights.anything"])
def test_a_pickle_is_refused_by_name_and_by_content(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match=r"is a pickle.*never does(.|\n)*atlas-core sample") as error:
        open_checkpoint(path)
    assert str(path) in str(error.value)


def test_a_zip_of_torch_save_is_refused_in_the_place_of_a_file(run):
    path = write(run, 1)
    torch.save(WEIGHTS, path / "networks.safetensors")
    with pytest.raises(CheckpointError, match=r"networks\.safetensors is a pickle"):
        open_checkpoint(run.path)


def test_a_safetensors_file_whose_first_bytes_look_like_a_pickle_is_none(tmp_path):
    """The header's length comes first; a length of 0x0280 begins with 80 02, as a pickle of protocol 2 does."""
    path = tmp_path / "weights"
    for letters in range(1, 700):
        write_tensors(path, {"w" * letters: torch.zeros(2)})
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    else:
        pytest.fail("no header of the right length was made")
    assert not is_pickle(path)


@pytest.mark.parametrize("name", ["networks.safetensors", "ema.safetensors", "optimizer.safetensors", "pipeline.json"])
def test_a_truncated_file_is_named_with_the_older_checkpoint_that_is_intact(run, name):
    older, newest = write(run, 10), write(run, 20)
    content = (newest / name).read_bytes()
    (newest / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(run.path)
    text = str(error.value)
    assert f"{newest} is damaged: {name}" in text
    assert re.search(
        rf"has \d+ bytes, the checkpoint recorded {len(content)}: the file was truncated or replaced", text
    )
    assert f"{older} is intact" in text
    assert f"rm -r {newest}" in text
    shutil.rmtree(newest)
    assert open_checkpoint(run.path).path == older


@pytest.mark.parametrize(("numbers", "change"), [(1, "truncated or replaced"), (999, "changed or replaced")])
def test_a_file_of_another_network_is_not_called_truncated_for_sure(run, numbers, change):
    path = write(run, 10)
    write_tensors(path / "ema.safetensors", {"denoiser.w": torch.zeros(numbers)})
    with pytest.raises(CheckpointError, match=rf"recorded \d+: the file was {change}"):
        open_checkpoint(path)


def test_one_flipped_bit_is_noticed_before_anything_is_loaded(run):
    path = write(run, 10)
    content = bytearray((path / "ema.safetensors").read_bytes())
    content[-3] ^= 1
    (path / "ema.safetensors").write_bytes(content)
    opened = open_checkpoint(path)
    opened.load_networks("raw")
    with pytest.raises(CheckpointError, match=r"ema\.safetensors is not the file that was written(.|\n)*no other"):
        opened.load_networks("ema")
    with pytest.raises(CheckpointError, match=r"ema\.safetensors"):
        opened.verify()


@pytest.mark.parametrize("name", ["state.json", "networks.safetensors", "lock.json"])
def test_a_missing_file_is_named(run, name):
    path = write(run, 10)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        open_checkpoint(run.path)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"format": "atlas-checkpoint", "version": 1}'])
def test_a_state_that_is_no_state_is_refused(run, content):
    path = write(run, 10)
    (path / "state.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"state\.json"):
        open_checkpoint(path)


def test_a_newer_format_says_how_to_get_an_atlas_that_reads_it(run):
    path = write(run, 10)
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(state | {"version": 2}))
    with pytest.raises(CheckpointError, match=r"format 2(.|\n)*pip install --upgrade atlas-core"):
        open_checkpoint(path)


def test_foreign_folders_and_files_are_told_apart(tmp_path):
    (tmp_path / "sd").mkdir()
    (tmp_path / "sd" / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="diffusers"):
        open_checkpoint(tmp_path / "sd")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "pytorch_model.bin").write_bytes(b"PK\x03\x04rest")
    with pytest.raises(CheckpointError, match=r"a pickle, pytorch_model\.bin"):
        open_checkpoint(tmp_path / "hf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="it is empty"):
        open_checkpoint(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match="a checkpoint is a folder"):
        open_checkpoint(tmp_path / "notes.txt")


def test_a_missing_path_says_what_is_beside_it(run):
    write(run, 10)
    with pytest.raises(CheckpointError, match=r"did you mean .*digits\?"):
        open_checkpoint(run.path.with_name("digit"))


def test_a_run_without_checkpoints_says_how_to_start_it_again(run):
    (run.checkpoints / f"{TEMPORARY}step-00000010-abc").mkdir()
    (run.checkpoints / f"{TEMPORARY}step-00000010-abc" / "state.json").write_text("{}")
    assert run.latest_checkpoint() is None
    with pytest.raises(CheckpointError, match=r"no checkpoint(.|\n)*--resume"):
        open_checkpoint(run.path)


def test_what_a_killed_writer_left_is_removed_by_the_next_save(run):
    left = run.checkpoints / f"{TEMPORARY}step-00000010-abc"
    left.mkdir()
    (left / "networks.safetensors").write_bytes(b"half")
    write(run, 10)
    assert [entry.name for entry in run.checkpoints.iterdir()] == ["step-00000010"]
