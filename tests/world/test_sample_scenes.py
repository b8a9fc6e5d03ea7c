"""The committed sample videos are the ones that the code describes, and the questions about them are well formed."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from cope_cli.world.render import render_scene
from cope_cli.world.sample_scenes import sample_captions, sample_questions, sample_scenes, write_sample_videos

SAMPLES = Path(__file__).parents[2] / "sample_videos"
SCENES = {scene.name: scene for scene in sample_scenes()}
by_name = pytest.mark.parametrize("name", list(SCENES))


def test_a_cut_changes_the_whole_picture():
    scene = SCENES["hard_cut"]
    cut = scene.shot_num_frames[0]
    before, after = islice(render_scene(scene), cut - 1, cut + 1)
    assert cut % 240 != 0
    assert np.abs(before.astype(int) - after).mean() > 50


def test_write_sample_videos_writes_every_clip_and_the_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    short = tuple(
        replace(scene, shots=tuple(replace(shot, seconds=0.1) for shot in scene.shots)) for scene in SCENES.values()
    )
    monkeypatch.setattr("cope_cli.world.sample_scenes.sample_scenes", lambda: short)
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
    for expected, found in islice(zip(render_scene(scene), frames, strict=True), 0, None, 49):
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
