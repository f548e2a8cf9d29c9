"""Images edited from the command line: what is given comes back where it must."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(digits_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_run, tmp_path / "digits"))


def scan(index: int) -> np.ndarray:
    return (load_digits().images[index] / 16 * 255).astype(np.uint8)


def written(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def drawn(folder: Path, seed: int) -> np.ndarray:
    return np.asarray(Image.open(folder / f"{seed:06d}.png"))


def test_a_mask_keeps_what_is_bright_in_it_to_the_byte(run: Path, tmp_path: Path, cli: Cli) -> None:
    left = np.zeros((8, 8), np.uint8)
    left[:, :4] = 255
    words = ["--mask", written(tmp_path / "left.png", left), "-n", "3", "--seed", "5", "--nfe", "4", "--passes", "2"]
    code, out, err = cli("edit", run, written(tmp_path / "eight.png", scan(8)), *words, "--json", "--quiet")
    assert code == 0, err
    folder = Path(json.loads(out)["folder"])
    assert folder == run / "edited-5"
    results = [drawn(folder, seed) for seed in (5, 6, 7)]
    for image in results:
        assert np.array_equal(image[:, :4], scan(8)[:, :4])
    assert not np.array_equal(results[0], results[1])


def test_an_enlarged_image_has_the_means_that_were_given(run: Path, tmp_path: Path, cli: Cli) -> None:
    small = np.full((4, 4), 128, np.uint8)  # far from black and white, so that no mean is clamped away
    file = written(tmp_path / "small.png", small)
    code, _, err = cli("edit", run, file, "--enlarge", "2", "--nfe", "4", "--out", tmp_path / "large", "--quiet")
    assert code == 0, err
    large = drawn(tmp_path / "large", 0).astype(float)
    inside = (large > 0).reshape(4, 2, 4, 2).all((1, 3)) & (large < 255).reshape(4, 2, 4, 2).all((1, 3))
    assert inside.any()
    assert np.abs(large.reshape(4, 2, 4, 2).mean((1, 3)) - 128)[inside].max() <= 1


def test_little_strength_stays_near_and_much_goes_far(run: Path, tmp_path: Path, cli: Cli) -> None:
    file, off = written(tmp_path / "three.png", scan(3)), {}
    for strength in ("0.02", "0.9"):
        folder = tmp_path / strength
        assert cli("edit", run, file, "--strength", strength, "--nfe", "6", "--out", folder, "--quiet")[0] == 0
        off[strength] = float(np.abs(drawn(folder, 0).astype(float) - scan(3)).mean())
    assert off["0.02"] < 10 < off["0.9"]


def test_larger_images_than_the_network_was_trained_for(run: Path, tmp_path: Path, cli: Cli) -> None:
    for words, size in ((["--size", "8x20"], (8, 20)), (["--enlarge", "2"], (16, 16))):
        folder = tmp_path / words[0]
        assert cli("sample", run, *words, "-n", "1", "--nfe", "3", "--out", folder, "--quiet")[0] == 0
        assert drawn(folder, 0).shape == size
        assert json.loads((folder / "manifest.json").read_text())["images"][0]["seed"] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["absent.png"], "no file absent.png"),
        (["wide.png"], "has 9 × 8 pixels, not 8 × 8"),
        (["text.png"], "no image that can be read"),
        (["empty"], "holds no image"),
        (["ok.png", "--strength", "0.5", "--mask", "ok.png"], "give one of them"),
        (["ok.png", "--passes", "2"], "--passes goes with"),
        (["ok.png", "--strength", "1.5"], "strength=1.5"),
        (["ok.png", "--enlarge", "3"], "does not divide"),
        (["ok.png", "--condition", "eleven"], "there is no class 'eleven'"),
    ],
)
def test_what_cannot_be_edited_is_said(
    run: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "ok.png", scan(0))
    written(tmp_path / "wide.png", np.zeros((8, 9), np.uint8))
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    code, _, err = cli("edit", run, *words, "--quiet")
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert not list(run.glob("edited-*"))


def test_nothing_of_an_image_is_lost_in_silence(run: Path, tmp_path: Path, cli: Cli) -> None:
    deep, colour = tmp_path / "deep.png", tmp_path / "colour.png"
    Image.fromarray(np.full((8, 8), 30000, np.uint16)).save(deep)
    Image.fromarray(np.full((8, 8, 3), (200, 10, 10), np.uint8)).save(colour)
    for file in (deep, colour):
        code, _, err = cli("edit", run, file, "--quiet")
        assert code == 2
        assert "is an image of mode" in err
