"""Rendered scenes do what their records say: the world's renderer, and the exact one that other tests rely on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import known_scenes
import numpy as np
import pytest

from cope_cli.world.render import render_scene
from cope_cli.world.scenes import Pan, Scene, SceneShot, Shape, Waypoint

TINTS = ((60, 90, 70), (120, 140, 120))
Render = Callable[[Scene], Iterator[np.ndarray]]


@pytest.fixture(params=[render_scene, known_scenes.render], ids=["world", "exact"])
def render(request: pytest.FixtureRequest) -> Render:
    return request.param


def shape_at(*path: Waypoint, kind: str = "circle", **times: float) -> Shape:
    return Shape(kind=kind, colour="red", radius_px=20, seed=5, path=path, **times)


def scene_of(*shapes: Shape, seconds: float = 1.0, pans: tuple[Pan, ...] = ()) -> Scene:
    shot = SceneShot(seconds=seconds, background_seed=3, tints=TINTS, shapes=shapes, pans=pans)
    return Scene(name="test", shots=(shot,), width=160, height=96)


def frames_of(render: Render, scene: Scene) -> list[np.ndarray]:
    return list(render(scene))


def seen_pixels(render: Render, scene: Scene) -> list[np.ndarray]:
    """Per frame, which pixels differ from the same scene without its shapes."""
    bare = replace(scene, shots=tuple(replace(shot, shapes=()) for shot in scene.shots))
    pairs = zip(render(scene), render(bare), strict=True)
    return [np.abs(full.astype(int) - empty).max(axis=2) > 20 for full, empty in pairs]


def test_the_same_scene_gives_the_same_frames(render: Render):
    scene = scene_of(shape_at(Waypoint(0, 40, 48), Waypoint(1, 110.5, 50.25)))
    first, second = frames_of(render, scene), frames_of(render, scene)
    assert len(first) == scene.num_frames == 30
    assert first[0].shape == (96, 160, 3) and first[0].dtype == np.uint8
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_seeds_change_the_textures(render: Render):
    scene = scene_of()
    other = replace(scene, shots=(replace(scene.shots[0], background_seed=4),))
    assert not np.array_equal(next(render(scene)), next(render(other)))


def test_the_background_has_detail_everywhere(render: Render):
    luma = next(render(scene_of())).mean(axis=2)
    blocks = luma.reshape(6, 16, 10, 16).swapaxes(1, 2)
    assert blocks.std(axis=(2, 3)).min() > 3  # a block without detail could not be tracked


@pytest.mark.parametrize(("x_px", "y_px"), [(3, 0), (-2, 0), (0, 4), (2, -1)])
def test_a_pan_by_whole_pixels_shifts_the_whole_picture_exactly(render: Render, x_px: int, y_px: int):
    pan = Pan(from_seconds=0, until_seconds=1, x_px_per_frame=x_px, y_px_per_frame=y_px)
    still = shape_at(Waypoint(0, 80.25, 50.5))
    frames = frames_of(render, scene_of(still, pans=(pan,)))
    height, width = frames[0].shape[:2]
    for before, after in pairwise(frames):
        # what `after` shows at (y, x), `before` showed at (y + y_px, x + x_px)
        now = after[max(0, -y_px) : height - max(0, y_px), max(0, -x_px) : width - max(0, x_px)]
        then = before[max(0, y_px) : height - max(0, -y_px), max(0, x_px) : width - max(0, -x_px)]
        assert np.array_equal(now, then)


def test_a_pan_moves_the_camera_only_between_its_times():
    pan = Pan(from_seconds=0.2, until_seconds=0.5, x_px_per_frame=2)
    shot = scene_of(pans=(pan,)).shots[0]
    assert [shot.camera_at(frame, 30)[0] for frame in (0, 6, 7, 15, 16, 29)] == [0, 0, 2, 18, 18, 18]


def test_a_pan_goes_on_past_the_edge_of_the_background(render: Render):
    period = (240, 240) if render is render_scene else (1024, 512)  # the background repeats after these
    pans = (Pan(from_seconds=0, until_seconds=1, x_px_per_frame=period[0], y_px_per_frame=-period[1]),)
    frames = frames_of(render, scene_of(pans=pans))
    assert all(np.array_equal(frames[0], frame) for frame in frames)


@pytest.mark.parametrize("kind", ["circle", "square", "triangle"])
def test_a_shape_is_where_its_path_says_also_between_pixels(render: Render, kind: str):
    shape = shape_at(Waypoint(0.1, 40, 40), Waypoint(0.5, 85.5, 52), Waypoint(0.9, 50, 52), kind=kind)
    scene = scene_of(shape)
    for frame, mask in enumerate(seen_pixels(render, scene)):
        ys, xs = np.nonzero(mask)
        assert (xs.mean(), ys.mean()) == pytest.approx(shape.position_at(frame / scene.fps), abs=0.75)


def test_a_shapes_texture_travels_with_it(render: Render):
    path = (Waypoint(0, 40, 48), Waypoint(1, 100, 48))  # 2 pixels per frame
    frames = frames_of(render, scene_of(shape_at(*path)))
    assert np.array_equal(frames[0][38:58, 30:50], frames[10][38:58, 50:70])
    assert frames[0][38:58, 30:50].std(axis=(0, 1)).max() > 10


def test_moves_name_direction_times_and_speed():
    shape = shape_at(Waypoint(0, 10, 10), Waypoint(2, 70, 10), Waypoint(3, 70, 10), Waypoint(4, 70, 50))
    right, down = shape.moves
    assert (right.direction, right.from_seconds, right.until_seconds, right.px_per_second) == ("right", 0, 2, 30)
    assert (down.direction, down.from_seconds, down.until_seconds, down.px_per_second) == ("down", 3, 4, 40)
    assert [move.direction for move in shape_at(*[Waypoint(t, -9 * t, -8 * t) for t in (0, 1)]).moves] == ["left"]
    assert [move.direction for move in shape_at(Waypoint(0, 0, 9), Waypoint(1, 0, 0)).moves] == ["up"]


def test_a_shape_shows_only_in_its_time(render: Render):
    shape = shape_at(Waypoint(0, 80, 48), visible_from_seconds=0.2, visible_until_seconds=0.4)
    shown = [bool(mask.any()) for mask in seen_pixels(render, scene_of(shape))]
    assert [frame for frame, seen in enumerate(shown) if seen] == list(range(6, 12))


def test_a_shape_outside_the_picture_is_cut_off(render: Render):
    scene = scene_of(shape_at(Waypoint(0, -40, 48), Waypoint(1, 200, 48)))
    counts = [int(mask.sum()) for mask in seen_pixels(render, scene)]
    assert counts[0] == 0
    assert 0 < counts[4] < counts[15]


@pytest.mark.parametrize(
    "change",
    [
        {"colour": "beige"},
        {"radius_px": 1},
        {"path": ()},
        {"path": (Waypoint(1, 0, 0), Waypoint(1, 5, 0))},
    ],
)
def test_a_shape_that_makes_no_sense_is_refused(change: dict[str, object]):
    with pytest.raises(ValueError, match="found"):
        replace(shape_at(Waypoint(0, 0, 0)), **change)


@pytest.mark.parametrize("change", [{"shots": ()}, {"width": 2000}, {"height": 0}])
def test_a_scene_that_makes_no_sense_is_refused(change: dict[str, object]):
    with pytest.raises(ValueError, match="found"):
        replace(scene_of(), **change)
