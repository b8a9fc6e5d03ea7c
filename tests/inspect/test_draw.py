"""Pictures: arrows start and end where the motion says, grey is zero, panels keep their places."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cope_cli.codec.fusion import FrameSize
from cope_cli.inspect.draw import (
    Panel,
    arrow_gain,
    join_panels,
    longest_patch_px,
    picture,
    residual_levels,
    shown_size,
    with_arrows,
)

SIZE = FrameSize(width=480, height=240)
BLACK = Image.new("RGB", (480, 240))


def yellow(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image).astype(int)
    return (pixels[..., 0] > 150) & (pixels[..., 2] < 90)


def one_patch(x_px: float, y_px: float) -> np.ndarray:
    """Motion of a 3 x 3 patch grid in which only the middle patch moved."""
    motion = np.zeros((2, 48, 48), np.int16)
    motion[0, 16:32, 16:32] = round(2 * x_px)
    motion[1, 16:32, 16:32] = round(2 * y_px)
    return motion


@pytest.mark.parametrize(("x_px", "y_px"), [(60, 0), (-60, 0), (0, 60), (0, -60), (50, -40)])
def test_an_arrow_leads_from_where_the_patch_was_to_where_it_is(x_px, y_px):
    drawn = yellow(with_arrows(BLACK, one_patch(x_px, y_px), SIZE))
    ys, xs = np.nonzero(drawn)
    head, tail = np.array([240, 120]), np.array([240 - x_px, 120 - y_px])
    points = np.stack([xs, ys], axis=1) + 0.5
    assert np.hypot(*(points - head).T).min() < 3
    assert np.hypot(*(points - tail).T).min() < 3
    along = (points - tail) @ (head - tail) / np.hypot(x_px, y_px) ** 2  # 0 at the tail, 1 at the head
    assert -0.05 < along.min() < 0.06
    assert 0.94 < along.max() < 1.05
    assert ((along > 0.85) & (along < 0.95)).sum() > 1.5 * ((along > 0.05) & (along < 0.15)).sum()  # the tip is wider


def test_a_gain_moves_the_tail_and_not_the_head():
    plain, long = (yellow(with_arrows(BLACK, one_patch(20, 0), SIZE, gain)).nonzero()[1] for gain in (1, 4))
    assert plain.max() == long.max()
    assert plain.min() == pytest.approx(220, abs=2)
    assert long.min() == pytest.approx(160, abs=2)


def test_motion_counts_in_pixels_of_the_stream_not_of_the_drawing():
    small = Image.new("RGB", (240, 120))
    columns = yellow(with_arrows(small, one_patch(60, 0), SIZE)).nonzero()[1]
    assert columns.min() == pytest.approx(90, abs=2)
    assert columns.max() == pytest.approx(120, abs=2)


def test_a_patch_that_stayed_has_no_arrow():
    assert not yellow(with_arrows(BLACK, np.zeros((2, 48, 48), np.int16), SIZE)).any()


def test_the_gain_shows_small_motion_and_leaves_large_motion():
    patch_px = 16 / 224 * 240
    assert arrow_gain(0.0, SIZE, 224) == 1
    assert arrow_gain(1.0, SIZE, 224) == 8
    assert arrow_gain(100.0, SIZE, 224) == 1
    for longest_px in (2.0, 5.0, 10.0, 20.0):
        gain = arrow_gain(longest_px, SIZE, 224)
        assert gain == 1 or gain * longest_px <= 1.5 * patch_px
    assert longest_patch_px(one_patch(3, 4)) == 5


def test_grey_is_no_residual_and_signs_are_seen():
    residual = np.array([[[0, 10, -10], [255, -255, 63]]], np.int16)
    assert residual_levels(residual).tolist() == [[[128, 148, 108], [255, 0, 254]]]


@pytest.mark.parametrize(
    ("width", "height", "shown"), [(640, 360, (512, 288)), (360, 640, (288, 512)), (96, 96, (288, 288))]
)
def test_pictures_have_the_videos_shape(width, height, shown):
    assert shown_size(FrameSize(width=width, height=height), 288) == shown
    assert picture(np.zeros((32, 32, 3), np.uint8), shown).size == shown


def test_panels_stand_in_rows_in_their_order():
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    panels = [Panel(image=Image.new("RGB", (60, 40), colour), title="t" * 99, note="n") for colour in colours]
    sheet = np.asarray(join_panels(panels, columns=2, title="a title that is far too wide for this sheet " * 3))
    centres = [tuple(np.argwhere((sheet == colour).all(axis=2)).mean(axis=0)) for colour in colours]
    counts = [int((sheet == colour).all(axis=2).sum()) for colour in colours]
    assert counts == [60 * 40] * 3  # nothing is written over them
    (top_a, left_a), (top_b, left_b), (top_c, left_c) = centres
    assert top_a == top_b < top_c
    assert left_a == left_c < left_b
