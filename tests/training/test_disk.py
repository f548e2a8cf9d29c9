"""A disk that refuses: full, read-only, without permission. Nothing is lost, and the error says what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_training as tiny
import torch

from atlas_core.engine.checkpoint import open_checkpoint, save
from atlas_core.errors import CheckpointError, RunError
from atlas_core.runs.atomic import atomic_folder, write_atomically
from atlas_core.runs.folder import RunFolder

NOBODY = 65534


def write(run: RunFolder, step: int, numbers: int = 10):
    tensors = {"denoiser": {"w": torch.zeros(numbers)}}
    return save(run, step, networks=tensors, ema=tensors, optimizer={}, counters={}, table={}, lock={})


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of one megabyte."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


@contextlib.contextmanager
def closed_folder(mode: int) -> Iterator[Path]:
    """A folder to which `mode` applies, whoever runs the tests."""
    with tempfile.TemporaryDirectory() as name:  # not in tmp_path: pytest's folders are closed to others
        folder = Path(name)
        folder.chmod(mode)
        user = os.geteuid()
        if user == 0:
            os.seteuid(NOBODY)  # root is refused nothing
        try:
            yield folder
        finally:
            os.seteuid(user)
            folder.chmod(0o755)


def test_a_really_full_disk_leaves_the_last_checkpoint(small_disk):
    run = RunFolder.create(small_disk, "run")
    good = write(run, 10)
    with pytest.raises(RunError, match="no space left on device; step-00000010 is intact") as error:
        write(run, 20, numbers=300_000)
    assert str(run.checkpoint_of(20)) in str(error.value)
    assert "free some space" in str(error.value)
    assert [entry.name for entry in run.checkpoints.iterdir()] == ["step-00000010"]
    open_checkpoint(run.path).verify()
    write(run, 20)  # with space again it goes on
    assert open_checkpoint(run.path).step == 20
    assert good.exists()


def test_a_full_disk_is_noticed_wherever_it_shows(tmp_path, monkeypatch):
    """Some file systems say so only when the data is flushed, as on delayed allocation."""
    run = RunFolder.create(tmp_path, "run")
    write(run, 10)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="no space left"):
            write(run, 20)
        with pytest.raises(RunError, match=r"no space left.*was there before is intact"):
            write_atomically(run.config_toml, "x = 1")
    assert not run.config_toml.exists()
    assert open_checkpoint(run.path).step == 10
    assert len(list(run.checkpoints.iterdir())) == 1


def test_a_full_disk_during_training_ends_it_with_the_last_checkpoint(tmp_path, monkeypatch):
    real = os.fsync

    def full_from_step_20(descriptor):
        if "step-00000020" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full_from_step_20)
    with pytest.raises(RunError, match="step-00000010 is intact"):
        tiny.trainer(tmp_path / "run").fit()
    monkeypatch.undo()
    assert open_checkpoint(tmp_path / "run").step == 10
    assert tiny.trainer(tmp_path / "run").fit(resume=True).steps == 60


def test_a_folder_without_write_permission_is_refused_before_training():
    with closed_folder(0o555) as folder:
        with pytest.raises(RunError, match=r"permission denied; nothing was started(.|\n)*give yourself the right"):
            RunFolder.create(folder, "run")
        trainer = tiny.trainer(folder, events=[])  # any event would fail: a list has no train_start
        with pytest.raises(RunError, match="permission denied"):
            trainer.fit()


def test_where_no_run_was_made_there_is_none_to_resume(tmp_path, small_disk):
    (tmp_path / "afile").write_text("")
    with pytest.raises(RunError, match=r"afile is no folder: move it away, then run the command again, .*`--runs`"):
        RunFolder.create(tmp_path / "afile", "run")
    with contextlib.suppress(OSError):
        (small_disk / "full").write_bytes(bytes(2**21))
    with pytest.raises(RunError, match=r"no space left.*nothing was started(.|\n)*then run the command again") as error:
        RunFolder.create(small_disk, "run")
    assert "resume" not in str(error.value)


def test_a_folder_that_may_not_be_read_is_no_traceback():
    with closed_folder(0o000) as folder, pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
        open_checkpoint(folder)


def test_a_read_only_file_system_is_named(tmp_path):
    folder = tmp_path / "mounted"
    folder.mkdir()
    mount = shutil.which("mount")
    if not mount or subprocess.run([mount, "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        with pytest.raises(RunError, match="read-only file system"):
            write_atomically(folder / "config.toml", "x = 1")
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_block_that_raises_leaves_what_was_there(tmp_path):
    with atomic_folder(tmp_path / "a") as new:
        (new / "x").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "a") as new:
        (new / "x").write_text(str(1 / 0))
    assert (tmp_path / "a" / "x").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_run_never_overwrites_another(tmp_path):
    names = [RunFolder.create(tmp_path, "digits").name for _ in range(3)]
    assert names == ["digits", "digits-2", "digits-3"]
