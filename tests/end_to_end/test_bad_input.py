"""What a user may get wrong: one clear message with its place and the next step, the right exit code, nothing lost."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def refused(call: tuple[int, str, str], code: int, *words: str) -> str:
    """Check that a command ended with `code`, saying `words`, without a traceback; return what it said."""
    got, _, err = call
    assert got == code, err
    assert "Traceback" not in err
    for word in words:
        assert word in err, f"{word!r} is not in:\n{err}"
    return err


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(
        '[data]\nuse = "digits"\n[model]\nuse = "unet"\nchannels = 8\n[train]\nsteps = 2\n[sampler]\nuse = "euler"\n'
    )
    return path


# ---- configs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.stps=5", ("$.train.stps", "steps")),
        ("sampler.use=hoin", ("sampler 'hoin'", "heun")),
        ("train.steps=many", ("$.train.steps", "many")),
        ("train.steps='5'", ("$.train.steps",)),
        ("train.steps=0", ("$.train.steps", "1")),
        ("train.clip_norm=-1", ("$.train.clip_norm",)),
        ("sampling.guidance={use='cfg', scle=2}", ("$.sampling.guidance.scle", "scale")),
    ],
)
def test_an_override_that_cannot_be_meant(cli, override: str, words: tuple[str, ...]) -> None:
    refused(cli("run", "digits", override, "--dry-run"), 2, *words)


def test_two_errors_are_said_at_once_with_their_lines(cli, config: Path) -> None:
    config.write_text(config.read_text().replace("steps = 2", "steps = -2").replace("channels = 8", "chanels = 8"))
    refused(cli("run", config), 2, f"{config}:5", "channels", f"{config}:7", "$.train.steps")


def test_toml_that_cannot_be_parsed(cli, config: Path) -> None:
    config.write_text("[data\n")
    refused(cli("run", config), 2, str(config), "line 1")


def test_a_file_that_is_not_there(cli, tmp_path: Path, config: Path) -> None:
    refused(cli("run", tmp_path / "mina.toml"), 2, "mina.toml", "mine.toml")


def test_a_preset_that_does_not_exist(cli) -> None:
    refused(cli("run", "digit"), 2, "digits")


def test_a_command_that_does_not_exist(cli) -> None:
    refused(cli("trian"), 2, "train")


# ---- data ----------------------------------------------------------------------------------------------------------


def _folder(config: Path, root: Path) -> None:
    config.write_text(config.read_text().replace('use = "digits"', f'use = "image-folder"\nroot = "{root}"\nsize = 8'))


def test_a_data_folder_that_is_not_there_is_not_made(cli, config: Path, tmp_path: Path) -> None:
    _folder(config, tmp_path / "imagse")
    refused(cli("run", config), 1, "imagse")
    assert not (tmp_path / "imagse").exists()


def test_an_empty_data_folder(cli, config: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    _folder(config, tmp_path / "images")
    refused(cli("run", config, "--runs", tmp_path / "runs"), 1, "images")
    assert not (tmp_path / "runs").exists(), "a run folder was made for nothing"


def test_a_folder_of_corrupt_images(cli, config: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / "images" / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    _folder(config, tmp_path / "images")
    refused(cli("run", config, "--runs", tmp_path / "runs"), 1, "images")


# ---- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.fixture
def copied_run(digits_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_run, tmp_path / "digits"))


def test_a_truncated_checkpoint(cli, copied_run: Path) -> None:
    weights = copied_run / "checkpoints" / "step-00000030" / "ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(cli("sample", copied_run, "-q"), 1, "ema.safetensors", "step-00000020")
    assert cli("sample", copied_run / "checkpoints" / "step-00000020", "-q", "-n", "1", "--nfe", "2")[0] == 0


def test_a_foreign_checkpoint(cli, tmp_path: Path) -> None:
    foreign = tmp_path / "step-00000001"
    foreign.mkdir()
    (foreign / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    refused(cli("sample", foreign, "-q"), 1, "step-00000001")


def test_a_pickle_in_its_place_is_never_opened(cli, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Bomb()))
    refused(cli("sample", path, "-q"), 1, "model.pt", "pickle")
    assert not (tmp_path / "exploded").exists()


def test_a_run_that_is_not_there(cli, digits_run: Path) -> None:
    refused(cli("sample", digits_run.parent / "digts", "-q"), 1, "digts")
    refused(cli("report", digits_run.parent / "digts"), 2, "digits")


@pytest.mark.parametrize("condition", ["12", "seven"])
def test_a_class_that_does_not_exist(cli, digits_run: Path, condition: str, tmp_path: Path) -> None:
    refused(cli("sample", digits_run, "--condition", condition, "-q", "--out", tmp_path / "x"), 2, condition, "0")


def test_a_component_that_is_not_installed_any_more_is_named_with_its_pip_line(cli, copied_run: Path) -> None:
    import hashlib
    import json

    folder = copied_run / "checkpoints" / "step-00000030"
    state = json.loads((folder / "state.json").read_text())
    for name in ("pipeline.json", "lock.json"):
        file = folder / name
        file.write_text(file.read_text().replace("atlas-models-builtin", "acme-models"))
        state["files"][name] = {
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
    (folder / "state.json").write_text(json.dumps(state))
    refused(cli("sample", copied_run, "-q"), 1, "acme-models:unet", "pip install")


# ---- disks ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes; the test is skipped where none can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_leaves_the_last_good_checkpoint(cli, config: Path, small_disk: Path) -> None:
    call = cli("train", config, "train.steps=40", "train.checkpoint_every=1", "train.keep_checkpoints=40",
               "train.validate_every=0", "train.batch=8", "--runs", small_disk, "-q")  # fmt: skip
    said = refused(call, 1, "no space left", "intact", "df -h")
    checkpoints = sorted((small_disk / "mine" / "checkpoints").glob("step-*"))
    assert checkpoints
    assert checkpoints[-1].name in said
    assert cli("sample", checkpoints[-1], "-q", "-n", "1", "--nfe", "2", "--out", config.parent / "out")[0] == 0


def test_a_run_folder_without_write_permission(cli, config: Path, tmp_path: Path) -> None:
    disk = tmp_path / "read-only"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(disk)], capture_output=True).returncode:
        disk.chmod(0o500)
        if os.access(disk, os.W_OK):
            pytest.skip("nothing is read-only for this user")
        refused(cli("train", config, "--runs", disk, "-q"), 1, str(disk), "nothing was started")
        return
    try:
        refused(cli("train", config, "--runs", disk, "-q"), 1, str(disk), "nothing was started")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc here")
def test_a_place_in_which_no_folder_can_be_made(cli, config: Path) -> None:
    said = refused(cli("run", config, "--runs", "/proc/x", "-q"), 1, "nothing was started", "again", "--runs")
    assert "resume" not in said


def test_debug_shows_the_traceback(config: Path) -> None:
    from atlas_core.cli import main
    from atlas_core.errors import ConfigError

    with pytest.raises(ConfigError):
        main(["run", str(config), "train.steps=0", "--debug"])
