"""`cope ask` on videos as they are: when that is done, what is said of it, and what is done where it cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from api_ways import write_hevc
from asked_videos import SAMPLES

from cope_cli.ask.config import AskConfig
from cope_cli.ask.models import load_model
from cope_cli.ask.question import ask_video
from cope_cli.ask.questions import answer_questions
from cope_cli.ask.shown import notes
from cope_cli.cache.store import Cache
from cope_cli.errors import CheckpointError, VideoError
from cope_cli.files import write_json
from cope_cli.model.checkpoint.folders import LoadedVideoLM, load_videolm, save_videolm
from cope_cli.model.sizes.small import build_small_videolm

VIDEO = SAMPLES / "camera_pan.mp4"


def asked(loaded: LoadedVideoLM, cache: Cache, video: Path = VIDEO, **settings: object) -> str:
    config = AskConfig(keyframes_per_gop=1, max_new_tokens=2, **settings)  # type: ignore[arg-type]
    return ask_video(video, "What happened?", loaded, cache, config).way


def test_a_model_trained_on_re_encoded_videos_is_shown_such(lively: LoadedVideoLM, asked_cache: Cache):
    assert lively.primitives == ("re-encoded",)
    assert asked(lively, asked_cache) == "re-encoded"
    assert not any("direct" in note for note in notes(lively, AskConfig()))


def test_the_other_way_can_be_asked_for_and_is_noted(lively: LoadedVideoLM, asked_cache: Cache):
    assert asked(lively, asked_cache, way="direct") == "direct"
    assert any("read directly" in note for note in notes(lively, AskConfig(way="direct")))
    assert notes(lively, AskConfig(way="reencode")) == []


def test_a_model_trained_on_direct_primitives_is_shown_such(lively: LoadedVideoLM, asked_cache: Cache):
    loaded = replace(lively, primitives=("direct", "re-encoded"))
    assert asked(loaded, asked_cache) == "direct"
    assert asked(loaded, asked_cache, way="reencode") == "re-encoded"
    assert notes(loaded, AskConfig()) == notes(loaded, AskConfig(way="reencode")) == []


def test_a_model_trained_on_direct_primitives_alone_notes_that_videos_are_re_encoded(lively: LoadedVideoLM):
    loaded = replace(lively, primitives=("direct",))
    expected = "videos are re-encoded: the Delta-encoder was trained on direct primitives"
    assert notes(loaded, AskConfig(way="reencode")) == [expected]
    assert expected in notes(loaded, AskConfig(adaptive=True))
    assert notes(loaded, AskConfig()) == notes(loaded, AskConfig(way="direct")) == []
    assert notes(loaded, AskConfig(way="reencode", delta="off")) == []


def test_what_cannot_be_read_directly_is_re_encoded_unless_that_was_ruled_out(lively: LoadedVideoLM, tmp_path: Path):
    video, cache = write_hevc(tmp_path / "a.mp4"), Cache(tmp_path / "cache")
    loaded = replace(lively, primitives=("direct",))
    assert asked(loaded, cache, video) == "re-encoded"
    with pytest.raises(VideoError, match="hevc"):
        asked(loaded, cache, video, way="direct")


def test_questions_about_a_mixed_folder_say_which_way_each_video_took(lively: LoadedVideoLM, tmp_path: Path):
    hevc = write_hevc(tmp_path / "a.mp4")
    questions = [{"id": path.stem, "video": str(path), "question": "What happened?"} for path in (hevc, VIDEO)]
    write_json(tmp_path / "q.json", questions)
    loaded = replace(lively, primitives=("direct",))
    config = AskConfig(keyframes_per_gop=1, max_new_tokens=2)
    record = answer_questions(
        tmp_path / "q.json",
        tmp_path / "o.jsonl",
        loaded,
        Cache(tmp_path / "c"),
        config,
        video_root=Path("/"),
        workers=1,
    )
    assert (record.num_answered, record.num_direct) == (2, 1)
    lines = (tmp_path / "o.jsonl").read_text()
    assert lines.count('"way": "direct"') == lines.count('"way": "re-encoded"') == 1


def test_what_a_model_was_trained_on_survives_saving(tmp_path: Path):
    model, tokenizer = build_small_videolm(grid_px=64)
    save_videolm(model, tokenizer, tmp_path / "m", fusion_frames=30, primitives=("re-encoded", "direct"))
    assert load_model(tmp_path / "m", "cpu").primitives == ("direct", "re-encoded")
    path = tmp_path / "m" / "cope.json"
    path.write_text(path.read_text().replace('"direct"', '"sideways"'))
    with pytest.raises(CheckpointError, match="sideways"):
        load_videolm(tmp_path / "m")
