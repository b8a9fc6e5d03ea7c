"""Pictures show what the records say: twins begin alike to the pixel, things stand where their tracks have them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cope_cli.world import kernels
from cope_cli.world.config import WorldConfig
from cope_cli.world.groups import draw_group
from cope_cli.world.records import COLOURS, GOP_FRAMES, Clip, Part, Shot, Thing
from cope_cli.world.render import Painter, render
from cope_cli.world.themes import SHAPES
from cope_cli.world.tracks import track_of


def clip_of(*things: Thing, pan: Part | None = None, num_frames: int = GOP_FRAMES) -> Clip:
    shot = Shot(num_frames=num_frames, background_seed=7, things=things, pan=pan)
    return Clip(name="c", group="g", twin=0, theme="t", size_px=128, shots=(shot,))


def thing_of(shape: str = "circle", colour: str = "red", *parts: Part, **fields) -> Thing:
    values = {"radius_px": 14.0, "x_px": 50.0, "y_px": 70.0, "degrees": 0.0, "seed": 1, "depth": 0, **fields}
    return Thing(shape=shape, colour=colour, parts=parts, **values)


def covered(clip: Clip) -> np.ndarray:
    """(frames, H, W): which pixels differ from the same clip without things."""
    bare = replace(clip, shots=tuple(replace(shot, things=()) for shot in clip.shots))
    pairs = zip(render(clip), render(bare), strict=True)
    return np.array([np.abs(full.astype(int) - empty).max(axis=2) > 12 for full, empty in pairs])


def centre_of(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return (columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2


@pytest.mark.parametrize("two_gops", [0, 1])
def test_twins_have_the_same_pixels_in_every_iframe_and_not_in_all_frames(two_gops):
    config = WorldConfig(seed=11, two_gops=two_gops)
    for group in range(4):
        twins = [np.stack(list(render(clip))) for clip in draw_group(config, group)]
        iframes = {pictures[::GOP_FRAMES].tobytes() for pictures in twins}
        assert len(iframes) == 1
        assert len({pictures.tobytes() for pictures in twins}) > 1
        assert {len(pictures) for pictures in twins} == {GOP_FRAMES * (1 + two_gops)}


def test_the_same_record_gives_the_same_pixels_whatever_was_painted_before():
    first, second = draw_group(WorldConfig(seed=2, two_gops=0), 0)[:2]
    painter = Painter()
    for clip in (second, first):
        shared = list(render(clip, painter))
    assert np.array_equal(np.stack(shared), np.stack(list(render(first))))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_where_its_track_has_it(shape):
    part = Part(kind="move", from_seconds=1, until_seconds=6, direction="right", length_px=37)
    thing = thing_of(shape, "blue", part)
    masks, track = covered(clip_of(thing)), track_of(thing, GOP_FRAMES)
    x_px, y_px = centre_of(masks[0])
    for frame in (60, 117, 239):
        moved_x, moved_y = centre_of(masks[frame])
        assert moved_x - x_px == pytest.approx(track.x_px[frame] - track.x_px[0], abs=1)
        assert moved_y == pytest.approx(y_px, abs=0.5)
    assert abs(x_px - 50) <= 1.5 and abs(y_px - 70) <= 6  # a triangle's middle is above its box's


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_a_shape_has_its_colour_and_is_twenty_pixels_across(shape, colour):
    thing = thing_of(shape, colour, radius_px=10.5)
    mask = covered(clip_of(thing, num_frames=1))[0]
    rows, columns = np.nonzero(mask)
    assert np.ptp(rows) + 1 >= 18 and np.ptp(columns) + 1 >= 18
    (picture,) = render(clip_of(thing, num_frames=1))
    inside = picture[67:74, 47:54].reshape(-1, 3).astype(float).mean(axis=0)
    distances = {name: np.linalg.norm(inside - rgb) for name, rgb in COLOURS.items()}
    assert min(distances, key=distances.__getitem__) == colour


def test_a_thing_of_lesser_depth_hides_one_of_greater_depth():
    for red_depth, seen in ((0, "red"), (1, "blue")):
        red, blue = thing_of(depth=red_depth), thing_of(colour="blue", depth=1 - red_depth)
        (picture,) = render(clip_of(red, blue, num_frames=1))
        alone = thing_of(colour=seen)
        (expected,) = render(clip_of(alone, num_frames=1))
        assert np.array_equal(picture[62:78, 42:58], expected[62:78, 42:58])


def test_a_pan_moves_what_stands_still_the_other_way():
    pan = Part(kind="move", from_seconds=0, until_seconds=6, direction="right", length_px=60)
    pictures = list(render(clip_of(thing_of(), pan=pan)))
    for frame, gone_px in ((30, 10), (60, 20), (90, 30)):
        assert np.array_equal(pictures[frame][:, :-gone_px], pictures[0][:, gone_px:])


def test_things_grow_vanish_and_spin():
    grown = covered(clip_of(thing_of("circle", "red", Part(kind="grow", from_seconds=1, until_seconds=3, factor=1.5))))
    assert grown[120].sum() / grown[0].sum() == pytest.approx(1.5**2, rel=0.06)
    gone = covered(clip_of(thing_of("circle", "red", Part(kind="vanish", from_seconds=2, until_seconds=2))))
    assert gone[59].any() and not gone[60].any()
    spin = Part(kind="spin", from_seconds=0, until_seconds=8, degrees=720)
    spun = covered(clip_of(thing_of("triangle", "red", spin)))
    assert (spun[0] ^ spun[60]).sum() > 100  # upside down
    assert (spun[0] ^ spun[120]).sum() < 20  # once around


def test_cropping_between_pixels_is_bilinear_and_repeats():
    world = np.arange(6 * 6 * 3, dtype=np.float32).reshape(6, 6, 3)
    out = np.empty((4, 4, 3), np.float32)
    kernels.crop(world, 4.25, 5.5, out)
    upper, lower = world[[5, 0, 1, 2]], world[[0, 1, 2, 3]]
    rows = (upper + lower) / 2
    expected = 0.75 * rows[:, [4, 5, 0, 1]] + 0.25 * rows[:, [5, 0, 1, 2]]
    assert np.allclose(out, expected)


def test_laying_is_exact_at_whole_pixels_and_cut_off_outside():
    rng = np.random.Generator(np.random.PCG64(0))
    sprite = np.zeros((5, 5, 4), np.float32)
    sprite[1:4, 1:4] = rng.uniform(0, 100, (3, 3, 4))
    sprite[1:4, 1:4, 3] = 1
    for x_px, y_px in ((4, 3), (0, 0), (7, 7), (-9, 2)):
        picture = np.full((8, 8, 3), 5, np.float32)
        kernels.lay(picture, sprite, x_px, y_px, 1.0, 0.0, 1.0)
        expected = np.full((12, 12, 3), 5, np.float32)  # two pixels of margin on each side
        if x_px >= 0:
            expected[y_px + 1 : y_px + 4, x_px + 1 : x_px + 4] = sprite[1:4, 1:4, :3]
        assert np.array_equal(picture, expected[2:10, 2:10])


def test_rounding_to_bytes_clips_and_stays_in_its_box():
    out = np.full((2, 2, 3), 9, np.uint8)
    picture = np.empty((2, 2, 3), np.float32)
    picture[:] = -3.0, 127.6, 300.0
    kernels.to_bytes(picture, out, 1, 2, 0, 1)
    assert out.tolist() == [[[9, 9, 9], [9, 9, 9]], [[0, 128, 255], [9, 9, 9]]]
