"""Pictures of samples: where each pixel lands, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from atlas_core.report.images import GAP, HEADER, SEEN, grid_png, scatter_png, strip_png


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_small_image_is_enlarged_smoothly_and_placed_row_by_row(tmp_path):
    x = torch.full((3, 1, 8, 8), -1.0)
    x[1, 0, 0, 1] = 1.0  # the second item has one white pixel, in its first row, second column
    x[2] = 5.0  # beyond the range
    grid_png(x, tmp_path / "grid.png", columns=2)
    image = read(tmp_path / "grid.png")
    scale = SEEN // 8
    assert image.shape == (2 * (SEEN + GAP) + GAP, 2 * (SEEN + GAP) + GAP, 3)
    left = GAP + SEEN + GAP
    tile = image[GAP : GAP + SEEN, left : left + SEEN, 0]
    row, column = np.unravel_index(tile.argmax(), tile.shape)
    assert tile.max() > 240
    assert row < scale
    assert scale <= column < 2 * scale
    assert (tile[2 * scale :] == 0).all()  # the enlargement is smooth, but no wider than its neighbours
    assert (tile[:, 4 * scale :] == 0).all()
    assert (image[GAP + SEEN + GAP : -GAP, GAP : GAP + SEEN] == 255).all()
    assert (image[-SEEN:, -SEEN:] == 128).all()  # no fourth item


def test_titles_stand_above_the_columns_and_large_images_keep_their_size(tmp_path):
    grid_png(
        torch.zeros(2, 3, 70, 90), tmp_path / "grid.png", columns=2, titles=["cat", "a very long class name indeed"]
    )
    image = read(tmp_path / "grid.png")
    assert image.shape == (HEADER + 70 + 2 * GAP, 2 * (90 + GAP) + GAP, 3)
    assert image[:HEADER].min() < 128


def test_a_strip_has_a_column_a_frame_and_a_row_a_sample(tmp_path):
    frames = [torch.full((2, 1, 8, 8), value) for value in (-1.0, 0.0, 1.0)]
    frames[2][1] = -1.0
    strip_png(frames, tmp_path / "strip.png")
    image = read(tmp_path / "strip.png")[..., 0]
    centre = GAP + SEEN // 2
    got = [[int(image[centre + r * (SEEN + GAP), centre + c * (SEEN + GAP)]) for c in range(3)] for r in range(2)]
    assert got == [[0, 128, 255], [0, 128, 0]]


def test_values_that_are_not_finite_do_not_stop_the_picture(tmp_path):
    grid_png(torch.full((1, 1, 2, 2), float("nan")), tmp_path / "grid.png", columns=1)
    assert (read(tmp_path / "grid.png")[GAP:-GAP, GAP:-GAP] == 0).all()


def test_what_is_no_image_is_refused(tmp_path):
    for bad in (torch.zeros(3, 2), torch.zeros(3, 2, 4, 4), torch.zeros(0, 1, 4, 4)):
        with pytest.raises(ValueError, match="scatter_png"):
            grid_png(bad, tmp_path / "grid.png", columns=2)
    with pytest.raises(ValueError, match="one shape"):
        strip_png([torch.zeros(1, 1, 4, 4), torch.zeros(2, 1, 4, 4)], tmp_path / "strip.png")
    with pytest.raises(ValueError, match="column"):
        grid_png(torch.zeros(1, 1, 4, 4), tmp_path / "grid.png", columns=0)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_points_are_scattered(tmp_path, d):
    x = torch.randn(50, d, generator=torch.Generator().manual_seed(0))
    scatter_png(x, tmp_path / "points.png", real=x + 1)
    image = read(tmp_path / "points.png")
    assert image.shape[:2] == (600, 600)
    assert image[..., :3].std() > 1
