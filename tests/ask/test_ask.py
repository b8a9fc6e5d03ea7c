"""Asking: missing stages run, the counts are those of the plan, and Delta-tokens can be zeroed or left out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cope_cli.ask.config import AskConfig
from cope_cli.ask.conversation import Answer
from cope_cli.ask.models import load_model
from cope_cli.ask.question import ask_video
from cope_cli.ask.settings import find_model
from cope_cli.cache.store import Cache
from cope_cli.config import EncodeConfig
from cope_cli.errors import CheckpointError, PathNotFoundError, UsageError, VideoError
from cope_cli.files import write_json
from cope_cli.model.checkpoint.folders import LoadedVideoLM, save_videolm
from cope_cli.model.sizes.small import build_small_videolm

SAMPLE = Path(__file__).parents[2] / "sample_videos" / "red_circle_right_then_left.mp4"  # 540 frames: 3 GOPs, 18 slots
CONFIG = AskConfig(max_new_tokens=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights, on disk."""
    path = tmp_path_factory.mktemp("model") / "model"
    model, tokenizer = build_small_videolm(grid_px=64)
    save_videolm(model, tokenizer, path, fusion_frames=30)
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedVideoLM:
    return load_model(folder, "cpu")


@pytest.fixture(scope="module")
def first(
    loaded: LoadedVideoLM, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Cache, Answer, list[str], list[str]]:
    """The first question about a video: nothing is in the cache yet."""
    cache = Cache(tmp_path_factory.mktemp("cache"))
    stages: list[str] = []
    pieces: list[str] = []
    answer = ask_video(
        SAMPLE,
        "What happened?",
        loaded,
        cache,
        CONFIG,
        on_stage=lambda stage, *_: stages.append(stage),
        on_text=pieces.append,
    )
    return cache, answer, stages, pieces


def test_missing_stages_are_run_and_reported(first):
    _, answer, stages, _ = first
    assert list(dict.fromkeys(stages)) == ["encode", "extract"]
    assert answer.stages_seconds > 0
    assert answer.total_seconds >= answer.stages_seconds + answer.ttft_seconds > 0


def test_the_streamed_text_is_the_answer(first):
    _, answer, _, pieces = first
    assert "".join(pieces).strip() == answer.text
    assert 1 <= answer.num_new_tokens <= 3


def test_a_second_question_runs_no_stage_and_gets_the_same_answer(first, loaded):
    cache, answer, _, _ = first
    again = ask_video(SAMPLE, "What happened?", loaded, cache, CONFIG, on_stage=lambda *_: pytest.fail("a stage ran"))
    assert again.stages_seconds == 0
    assert again.text == answer.text


@pytest.mark.parametrize(("keyframes", "num_rgb"), [(1, 3), (2, 6), (4, 10)])
def test_counts_follow_the_keyframes(first, loaded, keyframes, num_rgb):
    """GOPs of 8, 8 and 2 slots; the small model takes 56 tokens for an RGB slot and 10 for a P slot."""
    cache, _, _, _ = first
    answer = ask_video(SAMPLE, "What?", loaded, cache, replace(CONFIG, keyframes_per_gop=keyframes))
    assert (answer.num_rgb_slots, answer.num_p_slots) == (num_rgb, 18 - num_rgb)
    assert answer.num_visual_tokens == 56 * num_rgb + 10 * (18 - num_rgb)
    assert (answer.num_gops_used, answer.num_gops_total) == (3, 3)


def test_long_videos_are_shown_by_some_of_their_gops(first, loaded):
    cache, _, _, _ = first
    answer = ask_video(SAMPLE, "What?", loaded, cache, replace(CONFIG, max_gops=2, keyframes_per_gop=1))
    assert (answer.num_gops_used, answer.num_gops_total) == (2, 3)
    assert answer.num_rgb_slots == 2


def test_delta_tokens_can_be_zeroed_or_left_out(first, loaded):
    cache, _, _, _ = first
    on, zero, off = (
        ask_video(SAMPLE, "What?", loaded, cache, replace(CONFIG, delta=mode, keyframes_per_gop=1))
        for mode in ("on", "zero", "off")
    )
    assert on.num_visual_tokens == zero.num_visual_tokens == 3 * 56 + 15 * 10
    assert (off.num_visual_tokens, off.num_p_slots) == (3 * 56, 0)


def test_another_fusion_window_is_extracted_when_asked_for(first, loaded):
    cache, answer, _, _ = first
    finer = ask_video(SAMPLE, "What?", loaded, cache, replace(CONFIG, fusion_frames=60, keyframes_per_gop=1))
    assert finer.entry != answer.entry
    assert (finer.num_rgb_slots, finer.num_p_slots) == (3, 6)  # GOPs of 4, 4 and 1 slots


def test_a_copy_of_a_video_is_answered_from_its_own_entry(first, loaded, tmp_path):
    cache, answer, _, _ = first
    copy = tmp_path / SAMPLE.name
    shutil.copy(SAMPLE, copy)
    assert ask_video(copy, "What happened?", loaded, cache, CONFIG).entry == answer.entry


def test_what_cannot_be_asked_is_refused_by_name(loaded, tmp_path):
    cache = Cache(tmp_path)
    with pytest.raises(UsageError, match="question is empty"):
        ask_video(SAMPLE, "  ", loaded, cache, CONFIG)
    with pytest.raises(PathNotFoundError, match=r"gone\.mp4"):
        ask_video(tmp_path / "gone.mp4", "What?", loaded, cache, CONFIG)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError, match="empty"):
        ask_video(tmp_path / "empty.mp4", "What?", loaded, cache, CONFIG)


@pytest.mark.parametrize(
    "field",
    [{"keyframes_per_gop": -1}, {"max_gops": 0}, {"delta": "half"}, {"max_new_tokens": 0}, {"temperature": -1.0}],
    ids=str,
)
def test_wrong_settings_name_their_flag(field):
    with pytest.raises(UsageError, match="--"):
        AskConfig(**field)


def test_the_newest_finished_run_answers(tmp_path, folder, monkeypatch):
    monkeypatch.setattr("cope_cli.ask.settings.SHIPPED_MODEL", tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="no model"):
        find_model(None, tmp_path)
    for name, state, seconds in (("old", "finished", 1), ("new", "finished", 2), ("unfinished", "running", 3)):
        (tmp_path / name / "model").mkdir(parents=True)
        write_json(
            tmp_path / name / "status.json", {"kind": "finetune", "state": state, "step": 1, "unix_seconds": seconds}
        )
    assert find_model(None, tmp_path) == tmp_path / "new" / "model"
    assert find_model(tmp_path / "old", tmp_path) == tmp_path / "old" / "model"
    assert find_model(folder, tmp_path) == folder


def test_a_device_that_is_not_there_is_named(folder):
    with pytest.raises(UsageError, match="--device nonsense"):
        load_model(folder, "nonsense")


def test_the_cache_it_leaves_is_that_of_the_data_stages(first):
    cache, answer, _, _ = first
    (encoded,) = cache.encoded_entries()
    assert encoded.manifest.config == json.loads(json.dumps(EncodeConfig().to_dict()))
    assert answer.entry in cache.primitives_names()
