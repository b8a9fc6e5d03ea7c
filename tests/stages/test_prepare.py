"""Stages that run ahead, in a process of their own, for a model that is still being read."""

from __future__ import annotations

from pathlib import Path

import pytest

from cope_cli.cache.store import Cache
from cope_cli.config import ExtractConfig
from cope_cli.errors import PathNotFoundError, VideoError
from cope_cli.stages.frames import FramesRequest
from cope_cli.stages.prepare import Preparation, prepare_ahead, prepare_video

NEEDED = Preparation(
    extract=ExtractConfig(fusion_frames=6, grid_px=32), frames=FramesRequest(size_px=32, keyframes_per_gop=1)
)


def test_what_ran_ahead_is_found_and_not_done_again(clip: Path, tmp_path: Path) -> None:
    process = prepare_ahead(clip, tmp_path / "ahead", NEEDED)
    here, is_new = prepare_video(clip, Cache(tmp_path / "here"), NEEDED)
    process.join()
    assert (is_new, process.exitcode) == (True, 0)
    stages: list[str] = []
    ahead, is_new = prepare_video(
        clip, Cache(tmp_path / "ahead"), NEEDED, on_stage=lambda stage, done, total: stages.append(stage)
    )
    assert not is_new
    assert ahead.name == here.name
    assert ahead.manifest.files == here.manifest.files


def test_what_fails_ahead_is_said_when_it_is_needed(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    process = prepare_ahead(broken, tmp_path / "cache", NEEDED)
    process.join()
    assert process.exitcode == 0
    with pytest.raises(VideoError):
        prepare_video(broken, Cache(tmp_path / "cache"), NEEDED)
    with pytest.raises(PathNotFoundError):
        prepare_video(tmp_path / "none.mp4", Cache(tmp_path / "cache"), NEEDED)
