"""The committed sample clips of the world are the ones that the code describes, and they are small."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from cope_cli.world import facts
from cope_cli.world.render import render
from cope_cli.world.samples import world_samples, write_world_samples

SAMPLES = Path(__file__).parents[2] / "sample_videos"
CLIPS, ITEMS = world_samples()
CAPTIONS = {
    "tiny_right_then_down": "At the bottom left, the orange triangle moves right, then down.",
    "tiny_vanishes": "At the bottom right, the red square vanishes.",
    "tiny_passes_behind": "At the right, the orange triangle passes behind the blue triangle.",
    "tiny_first_and_second": (
        "At the left, the purple triangle vanishes. At the top right, the yellow square starts moving right."
    ),
    "tiny_camera_pan": "The camera pans left.",
}


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)
def test_a_committed_clip_shows_its_record(clip):
    with av.open(str(SAMPLES / f"{clip.name}.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 240
    for frame, picture in islice(zip(frames, render(clip), strict=True), 0, None, 40):
        assert np.abs(frame.astype(int) - picture).mean() < 6
    assert facts.caption(clip) == CAPTIONS[clip.name]


def test_the_committed_questions_are_those_of_the_code():
    assert json.loads((SAMPLES / "scenes.json").read_text()) == ITEMS
    assert {item["video"] for item in ITEMS} == {f"{name}.mp4" for name in CAPTIONS}
    assert {item["needs"] for item in ITEMS} == {"motion", "static"}


def test_clips_and_questions_are_small():
    files = [*SAMPLES.glob("tiny_*.mp4"), SAMPLES / "scenes.json"]
    assert len(files) == len(CAPTIONS) + 1
    assert sum(path.stat().st_size for path in files) < 300_000


def test_writing_them_gives_all_files(tmp_path):
    paths = write_world_samples(tmp_path)
    assert sorted(paths) == sorted(tmp_path.iterdir())
    assert (tmp_path / "scenes.json").read_bytes() == (SAMPLES / "scenes.json").read_bytes()
