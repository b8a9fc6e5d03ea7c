"""The rendered scenes do what their records say, and the committed samples are the ones that the code describes."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from cope_cli.codec.clips import write_h264
from cope_cli.errors import StorageError
from cope_cli.stages.samples import sample_captions, sample_questions, sample_scenes, write_sample_videos
from cope_cli.stages.scenes import Pan, Scene, Shape, Shot, Waypoint, render

SAMPLES = Path(__file__).parents[2] / "sample_videos"
TINTS = ((60, 90, 70), (120, 140, 120))
SCENES = {scene.name: scene for scene in sample_scenes()}
by_name = pytest.mark.parametrize("name", list(SCENES))


def shape_at(*path: Waypoint, kind: str = "circle", **times: float) -> Shape:
    return Shape(kind=kind, colour="red", radius_px=20, seed=5, path=path, **times)


def scene_of(*shapes: Shape, seconds: float = 1.0, pans: tuple[Pan, ...] = ()) -> Scene:
    shot = Shot(seconds=seconds, background_seed=3, tints=TINTS, shapes=shapes, pans=pans)
    return Scene(name="test", shots=(shot,), width=160, height=96)


def frames_of(scene: Scene) -> list[np.ndarray]:
    return list(render(scene))


def seen_pixels(scene: Scene) -> list[np.ndarray]:
    """Per frame, which pixels differ from the same scene without its shapes."""
    bare = replace(scene, shots=tuple(replace(shot, shapes=()) for shot in scene.shots))
    pairs = zip(render(scene), render(bare), strict=True)
    return [np.abs(full.astype(int) - empty).max(axis=2) > 20 for full, empty in pairs]


# Rendering


def test_the_same_scene_gives_the_same_frames():
    scene = scene_of(shape_at(Waypoint(0, 40, 48), Waypoint(1, 110.5, 50.25)))
    first, second = frames_of(scene), frames_of(scene)
    assert len(first) == scene.num_frames == 30
    assert first[0].shape == (96, 160, 3) and first[0].dtype == np.uint8
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_seeds_change_the_textures():
    scene = scene_of()
    other = replace(scene, shots=(replace(scene.shots[0], background_seed=4),))
    assert not np.array_equal(next(render(scene)), next(render(other)))


def test_the_background_has_detail_everywhere():
    luma = next(render(scene_of())).mean(axis=2)
    blocks = luma.reshape(6, 16, 10, 16).swapaxes(1, 2)
    assert blocks.std(axis=(2, 3)).min() > 3  # a block without detail could not be tracked


@pytest.mark.parametrize(("x_px", "y_px"), [(3, 0), (-2, 0), (0, 4), (2, -1)])
def test_a_pan_by_whole_pixels_shifts_the_whole_picture_exactly(x_px: int, y_px: int):
    pan = Pan(from_seconds=0, until_seconds=1, x_px_per_frame=x_px, y_px_per_frame=y_px)
    still = shape_at(Waypoint(0, 80.25, 50.5))
    frames = frames_of(scene_of(still, pans=(pan,)))
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


def test_a_pan_goes_on_past_the_edge_of_the_background():
    pans = (Pan(from_seconds=0, until_seconds=1, x_px_per_frame=1024, y_px_per_frame=-512),)
    frames = frames_of(scene_of(pans=pans))
    assert all(np.array_equal(frames[0], frame) for frame in frames)


@pytest.mark.parametrize("kind", ["circle", "square", "triangle"])
def test_a_shape_is_where_its_path_says_also_between_pixels(kind: str):
    shape = shape_at(Waypoint(0.1, 40, 40), Waypoint(0.5, 85.5, 52), Waypoint(0.9, 50, 52), kind=kind)
    scene = scene_of(shape)
    for frame, mask in enumerate(seen_pixels(scene)):
        ys, xs = np.nonzero(mask)
        assert (xs.mean(), ys.mean()) == pytest.approx(shape.position_at(frame / scene.fps), abs=0.75)


def test_a_shapes_texture_travels_with_it():
    path = (Waypoint(0, 40, 48), Waypoint(1, 100, 48))  # 2 pixels per frame
    frames = frames_of(scene_of(shape_at(*path)))
    assert np.array_equal(frames[0][38:58, 30:50], frames[10][38:58, 50:70])
    assert frames[0][38:58, 30:50].std(axis=(0, 1)).max() > 10


def test_moves_name_direction_times_and_speed():
    shape = shape_at(Waypoint(0, 10, 10), Waypoint(2, 70, 10), Waypoint(3, 70, 10), Waypoint(4, 70, 50))
    right, down = shape.moves
    assert (right.direction, right.from_seconds, right.until_seconds, right.px_per_second) == ("right", 0, 2, 30)
    assert (down.direction, down.from_seconds, down.until_seconds, down.px_per_second) == ("down", 3, 4, 40)
    assert [move.direction for move in shape_at(*[Waypoint(t, -9 * t, -8 * t) for t in (0, 1)]).moves] == ["left"]
    assert [move.direction for move in shape_at(Waypoint(0, 0, 9), Waypoint(1, 0, 0)).moves] == ["up"]


def test_a_shape_shows_only_in_its_time():
    shape = shape_at(Waypoint(0, 80, 48), visible_from_seconds=0.2, visible_until_seconds=0.4)
    shown = [bool(mask.any()) for mask in seen_pixels(scene_of(shape))]
    assert [frame for frame, seen in enumerate(shown) if seen] == list(range(6, 12))


def test_a_shape_outside_the_picture_is_cut_off():
    scene = scene_of(shape_at(Waypoint(0, -40, 48), Waypoint(1, 200, 48)))
    counts = [int(mask.sum()) for mask in seen_pixels(scene)]
    assert counts[0] == 0
    assert 0 < counts[4] < counts[15]


def test_a_cut_changes_the_whole_picture():
    scene = SCENES["hard_cut"]
    cut = scene.shot_num_frames[0]
    before, after = islice(render(scene), cut - 1, cut + 1)
    assert cut % 240 != 0
    assert np.abs(before.astype(int) - after).mean() > 50


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


# Clips


def test_a_clip_keeps_count_rate_colour_and_tags(tmp_path: Path):
    colours = np.array([[214, 48, 44], [46, 170, 84], [48, 104, 222], [255, 255, 255]], dtype=np.uint8)
    picture = np.repeat(colours, 32, axis=0)[None].repeat(64, axis=0)
    write_h264([picture] * 7, tmp_path / "new" / "clip.mp4", fps=25, crf=4)
    with av.open(str(tmp_path / "new" / "clip.mp4")) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert (stream.codec_context.name, stream.average_rate, len(frames)) == ("h264", 25, 7)
    tags = (frames[0].colorspace, frames[0].color_primaries, frames[0].color_trc, frames[0].color_range)
    assert tags == (6, 6, 6, 1)  # FFmpeg's numbers: SMPTE 170M three times, limited range
    decoded = frames[3].to_ndarray(format="rgb24")
    assert np.abs(decoded[32, 16::32].astype(int) - colours).max() <= 4
    luma = frames[3].to_ndarray()[32, 16:128:32].astype(float)
    expected = 16 + colours @ np.array([65.481, 128.553, 24.966]) / 255  # BT.601, limited range
    assert luma == pytest.approx(expected, abs=1.5)


def test_the_same_frames_give_the_same_file(tmp_path: Path):
    for name in ("a.mp4", "b.mp4"):
        write_h264(render(scene_of(seconds=0.3)), tmp_path / name, fps=30, crf=18)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_broken_off_clip_leaves_nothing_behind(tmp_path: Path):
    def broken():
        yield np.zeros((32, 32, 3), np.uint8)
        yield np.zeros((32, 34, 3), np.uint8)

    with pytest.raises(ValueError, match="frame 1 is"):
        write_h264(broken(), tmp_path / "clip.mp4", fps=30, crf=18)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frames", "fps", "crf"),
    [
        ([], 30, 18),
        ([np.zeros((31, 32, 3), np.uint8)], 30, 18),
        ([np.zeros((32, 32), np.uint8)], 30, 18),
        ([np.zeros((32, 32, 3), np.float32)], 30, 18),
        ([np.zeros((32, 32, 3), np.uint8)], 0, 18),
        ([np.zeros((32, 32, 3), np.uint8)], 30, 52),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, frames: list[np.ndarray], fps: int, crf: int):
    with pytest.raises(ValueError):
        write_h264(frames, tmp_path / "clip.mp4", fps=fps, crf=crf)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"clip\.mp4"):
        write_h264([np.zeros((32, 32, 3), np.uint8)], tmp_path / "file" / "clip.mp4", fps=30, crf=18)


# The samples


def test_write_sample_videos_writes_every_clip_and_the_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    short = tuple(
        replace(scene, shots=tuple(replace(shot, seconds=0.1) for shot in scene.shots)) for scene in SCENES.values()
    )
    monkeypatch.setattr("cope_cli.stages.samples.sample_scenes", lambda: short)
    seen = []
    paths = write_sample_videos(tmp_path / "out", lambda done, total: seen.append((done, total)))
    assert [path.name for path in paths] == [*(f"{name}.mp4" for name in SCENES), "qa.json", "captions.json"]
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())
    assert seen == [(done, 21) for done in range(1, 22)]  # 3 frames a shot; one scene has two shots
    assert json.loads(paths[-2].read_text()) == sample_questions()
    assert [item["video"] for item in json.loads(paths[-1].read_text())] == [f"{name}.mp4" for name in SCENES]


@by_name
def test_committed_clips_are_what_the_code_renders(name: str):
    scene = SCENES[name]
    with av.open(str(SAMPLES / f"{name}.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.width, stream.height) == (scene.fps, scene.width, scene.height)
        frames = list(container.decode(stream))
    assert len(frames) == scene.num_frames
    assert 8 <= scene.num_frames / scene.fps <= 20
    for expected, found in islice(zip(render(scene), frames, strict=True), 0, None, 49):
        assert np.abs(expected.astype(int) - found.to_ndarray(format="rgb24")).mean() < 3


def test_the_samples_are_small_and_one_spans_three_gops():
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) < 4_000_000
    assert max(scene.num_frames for scene in SCENES.values()) > 2 * 240


def test_shapes_move_fast_enough_for_block_vectors_and_stop_inside_the_picture():
    for scene in SCENES.values():
        for shot in scene.shots:
            for shape in shot.shapes:
                assert all(1.5 <= move.px_per_second / scene.fps <= 5 for move in shape.moves)
                x_px, y_px = shape.path[-1][1:]
                assert shape.radius_px <= x_px <= scene.width - shape.radius_px
                assert shape.radius_px <= y_px <= scene.height - shape.radius_px
                assert shape.radius_px >= 35


def test_committed_questions_are_those_of_the_code():
    assert json.loads((SAMPLES / "qa.json").read_text()) == sample_questions()
    assert json.loads((SAMPLES / "captions.json").read_text()) == sample_captions()


def test_questions_have_the_format_of_llava_video_178k():
    items = sample_questions()
    assert len(items) >= 14
    assert len({item["id"] for item in items}) == len(items)
    assert {item["video"] for item in items} == {f"{name}.mp4" for name in SCENES}
    assert sum(len(item["conversations"]) > 2 for item in items) >= 2
    for item in items:
        assert set(item) == {"id", "conversations", "data_source", "video"}
        turns = item["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert all(turn["value"].strip() for turn in turns)
        assert turns[0]["value"].startswith("<image>\n")
        assert sum(turn["value"].count("<image>") for turn in turns) == 1


def test_multiple_choice_answers_are_among_the_options_and_vary():
    answers = []
    for item in sample_questions():
        question, answer = (turn["value"] for turn in item["conversations"][:2])
        if "only the letter" in question:
            options = {line[0] for line in question.splitlines() if line[1:3] == ". "}
            assert answer in options
            answers.append(answer)
    assert len(answers) == len(SCENES)
    assert len(set(answers)) >= 3  # always saying the same letter must not look like understanding


def test_every_clip_has_a_caption():
    asked = {item["video"] for item in sample_questions() if "What happened?" in item["conversations"][0]["value"]}
    assert asked == {f"{name}.mp4" for name in SCENES}
