"""Image folders as people have them: mixed modes, rotated, broken, mistyped."""

from __future__ import annotations

import json
import logging
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from atlas_datasets_builtin import image_scan
from atlas_datasets_builtin.image_folder import ImageFolder
from atlas_datasets_builtin.image_reading import read_square
from PIL import Image
from torchvision.transforms import v2

from atlas_core.config.structure import structure
from atlas_core.contracts import Dataset
from atlas_core.errors import ConfigError, DataError
from atlas_core.plugins.registry import default_registry


def save(path: Path, pixels=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        seed = sum(map(ord, path.name))
        pixels = np.random.default_rng(seed).integers(0, 256, size=(20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for i in range(20):
        save(root / "cat" / f"{i:02}.png")
        save(root / "dog" / "deeper" / f"{i:02}.jpg")
    return root


class Coin:
    def __init__(self, values):
        self.values, self.asked = torch.tensor(values, dtype=torch.float64), []

    def uniform(self, purpose, step, shape=()):
        self.asked.append((purpose, step, shape))
        return self.values


def test_sub_folders_are_classes_and_splits_are_disjoint_and_stratified(folder):
    dataset = ImageFolder(str(folder), size=16, test_fraction=0.2)
    assert isinstance(dataset, Dataset)
    assert dataset.spec.classes == ("cat", "dog")
    assert (dataset.spec.shape, dataset.spec.levels, dataset.splits) == ((3, 16, 16), 256, ("train", "test"))
    train, test = dataset.split("train"), dataset.split("test")
    assert not set(train.files) & set(test.files)
    assert (sorted(e.condition for e in test), len(train)) == ([0] * 4 + [1] * 4, 32)
    assert train[3].x.shape == (3, 16, 16)
    assert train[-1].index == 31
    assert train[-1].condition == 1
    with pytest.raises(IndexError):
        train[32]


def test_the_split_depends_on_names_alone_and_an_added_file_moves_at_most_one(folder, tmp_path):
    before = set(ImageFolder(str(folder)).split("test").files)
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    assert set(ImageFolder(str(moved)).split("test").files) == before
    for i in range(20, 24):
        save(moved / "cat" / f"{i}.png")
    after = set(ImageFolder(str(moved)).split("test").files)
    assert len(before - after) <= 4
    assert len(after) == len(before)  # 24 · 0.1 and 20 · 0.1 both round to 2
    assert {name for name in before if name.startswith("dog")} <= after


def test_images_without_sub_folders_have_no_classes(tmp_path):
    for i in range(5):
        save(tmp_path / f"{i}.png")
    save(tmp_path / "more" / "x.png")
    dataset = ImageFolder(str(tmp_path))
    assert dataset.spec.classes == ()
    assert dataset.split("train")[0].condition is None
    assert len(dataset.split("test")) == 1


def test_nothing_is_held_out_at_fraction_zero(folder):
    dataset = ImageFolder(str(folder), test_fraction=0.0)
    assert dataset.splits == ("train",)
    assert len(dataset.split("train")) == 40
    with pytest.raises(ValueError, match="the splits are train"):
        dataset.split("test")


@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (40, 40), (23, 90)])
@pytest.mark.parametrize("size", [16, 60])
def test_resize_and_crop_are_those_of_torchvision(tmp_path, shape, size):
    pixels = np.random.default_rng(0).integers(0, 256, size=(*shape, 3), dtype=np.uint8)
    path = save(tmp_path / "a.png", pixels)
    resized = v2.functional.resize(Image.fromarray(pixels), [size], interpolation=v2.InterpolationMode.BICUBIC)
    expected = v2.functional.pil_to_tensor(v2.functional.center_crop(resized, [size]))
    assert torch.equal(read_square(path, size, 3), expected)


def test_a_long_strip_is_cut_in_its_middle(tmp_path):
    pixels = np.zeros((2, 20_000), dtype=np.uint8)
    pixels[:, 9_000:11_000] = 200
    assert read_square(save(tmp_path / "strip.png", pixels), 64, 1).unique().tolist() == [200]


def test_values_are_pixels_mapped_to_minus_one_and_one(tmp_path):
    pixels = np.array([[0, 255], [128, 64]], dtype=np.uint8)
    for i in range(2):
        save(tmp_path / f"{i}.png", pixels)
    x = ImageFolder(str(tmp_path), size=2, channels=1, test_fraction=0.0).split("train")[0].x
    torch.testing.assert_close(x[0], torch.tensor(pixels).float() / 127.5 - 1)


def test_every_mode_of_image_becomes_grey_or_colour(tmp_path):
    grey = np.full((8, 8), 100, dtype=np.uint8)
    save(tmp_path / "L.png", grey)
    save(tmp_path / "RGB.png", np.stack([grey] * 3, -1))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "I16.png")
    Image.fromarray(np.stack([grey] * 3, -1)).convert("P").save(tmp_path / "P.png")
    Image.fromarray(np.stack([grey] * 3, -1)).convert("CMYK").save(tmp_path / "CMYK.tif")
    Image.fromarray(grey > 0).save(tmp_path / "1.png")
    Image.fromarray(np.stack([grey] * 4, -1)).save(tmp_path / "RGBA.png")
    Image.fromarray(np.stack([grey] * 2, -1)).save(tmp_path / "LA.png")
    on_white = round(100 * 100 / 255 + 255 * 155 / 255)
    expected = {"1.png": 255, "RGBA.png": on_white, "LA.png": on_white}
    for path in sorted(tmp_path.iterdir()):
        for channels in (1, 3):
            square = read_square(path, 8, channels)
            assert square.shape == (channels, 8, 8)
            assert (square.int() - expected.get(path.name, 100)).abs().max() <= 2, path.name
    assert not ImageFolder(str(tmp_path), size=8).skipped()


def test_a_photo_is_turned_as_its_exif_says(tmp_path):
    pixels = np.zeros((10, 20), dtype=np.uint8)
    pixels[:, :10] = 255  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise: the left becomes the top
    path = save(tmp_path / "a.png", pixels, exif=exif)
    square = read_square(path, 10, 1)[0]
    assert square[:4].min() > 200
    assert square[6:].max() < 50


def corrupt(folder):
    """Four ways of being broken: empty, no image, header alone, cut at the end."""
    (folder / "cat" / "empty.png").write_bytes(b"")
    (folder / "cat" / "text.jpg").write_text("no image")
    (folder / "dog" / "header.png").write_bytes((folder / "cat" / "00.png").read_bytes()[:40])
    whole = (folder / "dog" / "deeper" / "00.jpg").read_bytes()
    (folder / "dog" / "cut.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    return {"cat/empty.png", "cat/text.jpg", "dog/header.png", "dog/cut.jpg"}


def test_corrupt_files_are_skipped_and_named_with_the_reason(folder):
    names = corrupt(folder)
    dataset = ImageFolder(str(folder))
    assert {problem.file for problem in dataset.skipped()} == {str(folder / name) for name in names}
    assert all("Error" in problem.message for problem in dataset.skipped())
    assert len(dataset.split("train")) + len(dataset.split("test")) == 40
    assert {example.x.shape for example in dataset.split("train")} == {(3, 64, 64)}


def test_a_float_image_is_refused_since_its_range_is_not_known(folder):
    Image.fromarray(np.zeros((8, 8), dtype=np.float32)).save(folder / "cat" / "depth.tif")
    (problem,) = ImageFolder(str(folder)).skipped()
    assert "range" in problem.message


def test_hidden_and_other_files_are_no_images_and_links_may_lead_back(folder):
    (folder / "cat" / "._00.png").write_bytes(b"resource fork")
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "a.png").write_bytes(b"")
    (folder / "README.txt").write_text("hello")
    (folder / "cat" / "loop").symlink_to(folder)
    (folder / "cat" / "gone.png").symlink_to(folder / "nowhere.png")
    dataset = ImageFolder(str(folder))
    assert [Path(problem.file).name for problem in dataset.skipped()] == ["gone.png"]
    assert len(dataset.split("train")) + len(dataset.split("test")) == 40


def test_a_folder_of_corrupt_images_says_so_and_lists_some(tmp_path):
    for i in range(12):
        (tmp_path / f"{i:02}.png").write_bytes(b"junk")
    with pytest.raises(DataError, match="none of the 12 image files") as caught:
        ImageFolder(str(tmp_path)).split("train")
    assert len(caught.value.problems) == 10
    assert "data.root" in caught.value.hint


def test_what_is_no_regular_file_is_not_opened(folder, monkeypatch):
    os.mkfifo(folder / "cat" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(folder)  # the path of a socket may have 107 bytes
        server.bind("dog/socket.jpg")
        (folder / "dog" / "device.png").symlink_to("/dev/zero")
        dataset = ImageFolder(str(folder))
        assert not dataset.skipped()
        assert len(dataset.split("train")) + len(dataset.split("test")) == 40


def test_a_single_image_cannot_be_held_out_and_trained_on(tmp_path):
    save(tmp_path / "only.png")
    (tmp_path / "bad.png").write_bytes(b"junk")
    with pytest.raises(DataError, match="holds 1 image that can be read") as caught:
        ImageFolder(str(tmp_path)).spec  # noqa: B018
    assert str(tmp_path) in caught.value.message
    assert "data.test_fraction=0" in caught.value.hint
    assert [Path(problem.file).name for problem in caught.value.problems] == ["bad.png"]
    assert len(ImageFolder(str(tmp_path), test_fraction=0.0).split("train")) == 1


def test_the_reason_does_not_repeat_the_path(folder):
    (folder / "cat" / "text.png").write_text("no image")
    (folder / "cat" / "zone.png").symlink_to(folder / "nowhere.png")
    reasons = [problem.message for problem in ImageFolder(str(folder)).skipped()]
    assert reasons == [
        "skipped: UnidentifiedImageError: cannot identify image file",
        "skipped: FileNotFoundError: [Errno 2] No such file or directory",
    ]


def test_a_relative_root_is_made_absolute_so_that_a_resume_finds_it_from_anywhere(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert ImageFolder("images").root == str(folder)
    table = {"use": "image-folder", "root": "images"}
    resolved = structure("dataset", table, facts={}, registry=default_registry())
    assert resolved.table["root"] == str(folder)
    assert resolved.build() == ImageFolder(str(folder))
    monkeypatch.setenv("HOME", str(folder.parent))
    assert ImageFolder("~/images").root == str(folder)
    with pytest.raises(ConfigError, match="~nobody-at-all"):
        structure("dataset", {**table, "root": "~nobody-at-all/x"}, facts={}, registry=default_registry())


def test_an_empty_folder_says_what_an_image_is(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match=r"no image under .*\n.*\.jpeg"):
        ImageFolder(str(tmp_path)).spec  # noqa: B018


def test_a_mistyped_root_is_not_created_and_the_nearest_folder_is_named(folder):
    missing = folder / "catt" / "more"
    with pytest.raises(DataError, match="does not exist") as caught:
        ImageFolder(str(missing)).split("train")
    assert str(folder) in caught.value.hint
    assert "cat, dog" in caught.value.hint
    assert not (folder / "catt").exists()


def test_a_file_as_root_is_named(folder):
    with pytest.raises(DataError, match="is a file"):
        ImageFolder(str(folder / "cat" / "00.png")).split("train")


def test_a_file_that_breaks_after_the_scan_is_named(folder):
    split = ImageFolder(str(folder)).split("train")
    (folder / split.files[5]).write_bytes(b"")
    with pytest.raises(DataError, match=split.files[5]):
        split[5]


def test_verdicts_are_cached_until_a_file_changes(folder, cache, monkeypatch):
    corrupt(folder)
    first = image_scan.scan(folder)
    looked = []
    check = image_scan.check
    monkeypatch.setattr(image_scan, "check", lambda path: (looked.append(path.name), check(path))[1])
    assert image_scan.scan(folder) == first
    assert looked == []
    save(folder / "cat" / "empty.png")
    os.utime(folder / "cat" / "01.png", ns=(1, 1))
    assert len(image_scan.scan(folder).problems) == 3
    assert sorted(looked) == ["01.png", "empty.png"]
    assert not list(cache.rglob("*.tmp"))


@pytest.mark.parametrize("junk", ["{", "[]", json.dumps({"a": 1})])
def test_a_broken_cache_is_rebuilt(folder, cache, junk, caplog):
    first = image_scan.scan(folder)
    (file,) = cache.rglob("*.json")
    file.write_text(junk)
    with caplog.at_level(logging.DEBUG):
        assert image_scan.scan(folder) == first
    assert "written anew" in caplog.text
    assert len(json.loads(file.read_text())) == 40


def test_a_cache_that_cannot_be_written_changes_nothing(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ATLAS_CACHE_DIR", str(tmp_path / "file"))
    assert len(image_scan.scan(folder).files) == 40


def test_flip_mirrors_the_rows_that_the_noise_picks():
    x = torch.arange(24.0).reshape(3, 1, 2, 4)
    coin = Coin([0.49, 0.5, 0.0])
    flipped = ImageFolder("unused", flip=True).augment(x, coin, 7)
    assert coin.asked == [("flip", 7, ())]
    assert torch.equal(flipped[0], x[0].flip(-1))
    assert torch.equal(flipped[1], x[1])
    assert torch.equal(flipped[2], x[2].flip(-1))
    assert ImageFolder("unused").augment(x, coin, 7) is x


def test_std_is_that_of_the_training_split(folder):
    dataset = ImageFolder(str(folder), size=20)
    stacked = torch.stack([example.x for example in dataset.split("train")]).double()
    assert dataset.spec.std == pytest.approx(float(stacked.std(correction=0)), rel=1e-6)


@pytest.mark.parametrize(
    ("field", "value"), [("size", 0), ("channels", 2), ("test_fraction", 1.0), ("test_fraction", -0.1)]
)
def test_a_field_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        ImageFolder("anywhere", **{field: value})
