"""Files of questions: equal to one by one, resumable, and one bad item does not stop the others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from asked_videos import SAMPLES

from cope_cli.ask import questions as module
from cope_cli.ask.config import AskConfig
from cope_cli.ask.question import ask_video
from cope_cli.ask.questions import answer_questions
from cope_cli.config import EncodeConfig
from cope_cli.errors import UsageError

CONFIG = AskConfig(keyframes_per_gop=1, max_new_tokens=8)
ITEMS = [
    {"id": "a", "video": "camera_pan.mp4", "question": "What happened?"},
    {"id": "b", "video": "hard_cut.mp4", "question": "How many shots does the video have, and what is in them?"},
    {"id": "c", "video": "camera_pan.mp4", "question": "What moves?", "answer": "the camera"},
]


@pytest.fixture
def write(tmp_path):
    def write(items, name="questions.json") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(items))
        return path

    return write


@pytest.fixture
def run(lively, asked_cache):
    def run(path, out, config=CONFIG, **options):
        options = {"video_root": SAMPLES, "workers": 1, "batch_size": 3, **options}
        return answer_questions(path, out, lively, asked_cache, config, **options)

    return run


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_batched_answers_equal_those_of_one_question_at_a_time(write, run, tmp_path, lively, asked_cache):
    out = tmp_path / "out.jsonl"
    record = run(write(ITEMS), out)
    assert (record.num_questions, record.num_answered, record.num_known, record.errors) == (3, 3, 0, ())
    found = {line["id"]: line for line in lines(out)}
    for item in ITEMS:
        alone = ask_video(SAMPLES / item["video"], item["question"], lively, asked_cache, CONFIG)
        assert found[item["id"]]["answer"] == alone.text
        assert found[item["id"]]["num_visual_tokens"] == alone.num_visual_tokens
    assert len({line["answer"] for line in found.values()}) == 3
    assert (record.num_expected, record.num_equal) == (1, found["c"]["answer"] == "the camera")


def test_turns_of_a_conversation_are_questions_with_the_files_own_history(write, run, tmp_path):
    out = tmp_path / "out.jsonl"
    talk = [
        {"from": "human", "value": "<image>\nWhat moves?"},
        {"from": "gpt", "value": "the camera"},
        {"from": "human", "value": "And after that?"},
        {"from": "gpt", "value": "It pans back."},
    ]
    run(write([{"id": 7, "video": "camera_pan.mp4", "conversations": talk}]), out)
    first, second = lines(out)
    assert [first["id"], second["id"]] == ["7", "7#2"]
    assert [first["expected"], second["expected"]] == ["the camera", "It pans back."]
    assert second["num_text_tokens"] > first["num_text_tokens"]


def test_a_rerun_answers_only_what_is_missing(write, run, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    path = write(ITEMS)
    run(path, out)
    whole = out.read_text()
    first, *rest = whole.splitlines(keepends=True)
    out.write_text(first + rest[0][:20])  # killed while the second line was written
    record = run(path, out)
    assert (record.num_known, record.num_answered) == (1, 2)
    assert sorted(out.read_text().splitlines()) == sorted(whole.splitlines())
    monkeypatch.setattr(module, "_answer_batch", lambda *_: pytest.fail("asked again"))
    assert run(path, out).num_known == 3


def test_videos_are_encoded_as_told_and_answers_of_other_encodings_are_not_mixed(write, run, tmp_path, asked_cache):
    path, out, encode = write(ITEMS[:1]), tmp_path / "out.jsonl", EncodeConfig(quality=31, short_side_px=32)
    assert run(path, out, config=replace(CONFIG, way="reencode"), encode=encode).num_answered == 1
    assert encode.to_dict() in [entry.manifest.config for entry in asked_cache.usable_encoded()[0]]
    with pytest.raises(UsageError, match="answers of other settings: encode"):
        run(path, out, config=replace(CONFIG, way="reencode"), encode=EncodeConfig(quality=30))


def test_a_question_that_stands_twice_is_answered_twice(write, run, tmp_path):
    out = tmp_path / "out.jsonl"
    path = write([ITEMS[0], ITEMS[0]])
    assert run(path, out).num_answered == 2
    assert run(path, out).num_known == 2


def test_what_is_bad_is_named_and_the_rest_answered_then_tried_again(write, run, tmp_path):
    out = tmp_path / "out.jsonl"
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "camera_pan.mp4").symlink_to(SAMPLES / "camera_pan.mp4")
    bad = [
        {"id": "broken", "video": "broken.mp4", "question": "What?"},
        {"id": "gone", "video": "gone.mp4", "question": "What?"},
        {"id": "away", "video": "../away.mp4", "question": "What?"},
        {"id": "long", "video": "good.mp4", "question": "word " * 9000},
        {"id": "empty", "video": "good.mp4", "question": "  "},
        {"id": "shapeless", "video": "good.mp4"},
    ]
    good = {"id": "good", "video": "good.mp4", "question": "What happened?"}
    (tmp_path / "good.mp4").write_bytes((SAMPLES / "camera_pan.mp4").read_bytes())
    record = run(write([*bad, good]), out, video_root=None)
    assert record.num_answered == 1
    messages = "\n".join(error.message for error in record.errors)
    for words in ("broken.mp4", r"gone.mp4: no such file", "is not below", "not even one GOP fits", "id 'shapeless'"):
        assert words in messages
    assert len(record.errors) == 6
    by_id = {line["id"]: line for line in lines(out)}
    assert by_id["good"]["answer"]
    assert set(by_id) == {"good", "broken", "gone", "away", "long"}
    assert all("error" in line for name, line in by_id.items() if name != "good")
    (tmp_path / "gone.mp4").write_bytes((SAMPLES / "camera_pan.mp4").read_bytes())
    again = run(tmp_path / "questions.json", out, video_root=None)
    assert (again.num_known, again.num_answered, len(again.errors)) == (1, 1, 5)
    assert sum(line["id"] == "gone" for line in lines(out)) == 1


def test_answers_of_other_settings_are_not_mixed(write, run, tmp_path):
    out = tmp_path / "out.jsonl"
    path = write(ITEMS[:1])
    run(path, out)
    with pytest.raises(UsageError, match=r"keyframes_per_gop 1 \(now 2\)"):
        run(path, out, replace(CONFIG, keyframes_per_gop=2))
    out.write_text("notes\nof mine\n")
    with pytest.raises(UsageError, match="line 1 is not an answer of cope"):
        run(path, out)
    with pytest.raises(UsageError, match="--batch-size 0"):
        run(path, tmp_path / "other.jsonl", batch_size=0)
