from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cope_cli.data.conversations import Turn, read_items
from cope_cli.errors import DataError, PathNotFoundError

SAMPLE_FILE = Path(__file__).parents[2] / "sample_videos" / "qa.json"


def _value(*texts: str, **changes: Any) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"id": "a", "video": "a.mp4", "conversations": turns, **changes}


def _write(tmp_path: Path, *values: Any) -> Path:
    path = tmp_path / "data.json"
    path.write_text(json.dumps(list(values)))
    return path


def test_the_sample_file_reads_with_every_turn() -> None:
    items = read_items(SAMPLE_FILE)
    raw = json.loads(SAMPLE_FILE.read_text())
    assert [item.id for item in items] == [value["id"] for value in raw]
    assert [len(item.turns) for item in items] == [len(value["conversations"]) // 2 for value in raw]
    assert items[0].turns[0].question == "What happened?"


def test_json_lines_give_the_same_items_as_a_list(tmp_path: Path) -> None:
    values = [_value("<image>\nQ", "A"), _value("<image>\nQ2", "A2", id=7)]
    lines = tmp_path / "data.jsonl"
    lines.write_text("\n".join(json.dumps(value) for value in values) + "\n\n")
    from_lines, from_list = read_items(lines), read_items(_write(tmp_path, *values))
    assert [(i.id, i.video, i.turns) for i in from_lines] == [(i.id, i.video, i.turns) for i in from_list]
    assert from_lines[1].id == "7"
    assert "line 2 (id '7')" in from_lines[1].where


@pytest.mark.parametrize("question", ["<image>\nWhat?", "What?\n<image>", "What?", "<image>What?"])
def test_the_placeholder_may_stand_anywhere_in_the_first_question_or_be_absent(tmp_path: Path, question: str) -> None:
    assert read_items(_write(tmp_path, _value(question, "A.")))[0].turns == (Turn(question="What?", answer="A."),)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "'text' found, a JSON object expected"),
        (_value("Q", "A", id=None), "id is None"),
        (_value("Q", "A", id=True), "id is True"),
        (_value("Q", "A", video=" "), "video is ' ', a path expected"),
        ({"id": 1, "image": "x.jpg", "conversations": []}, "video is None"),
        (_value(), "conversations has 0 turns"),
        (_value("Q", "A", "Q"), "conversations has 3 turns"),
        (_value("Q", "A", conversations="x"), "conversations has 'x' turns"),
        (_value("Q", "A", conversations=[{"from": "gpt", "value": "A"}] * 2), "turn 0 is from 'gpt', 'human' expected"),
        (_value("Q", "A", conversations=[{"from": "human", "value": 3}] * 2), "turn 0 has the value 3"),
        (_value("<image> a <image>", "A"), "turn 0 has an <image> too many"),
        (_value("<image>Q", "A", "<image>Q", "A"), "turn 2 has an <image> too many"),
        (_value("Q", "<image>"), "turn 1 has an <image> too many"),
        (_value("<image>\n", "A"), "turn 0 is empty"),
        (_value("Q", " "), "turn 1 is empty"),
    ],
)
def test_a_malformed_item_is_named_with_found_and_expected(tmp_path: Path, value: Any, message: str) -> None:
    path = _write(tmp_path, _value("Q", "A", id="first"), value)
    with pytest.raises(DataError) as caught:
        read_items(path)
    assert str(caught.value).startswith(f"{path}: item 1")
    assert message in str(caught.value)
    assert "expected" in caught.value.message

    bad: list[DataError] = []
    assert [item.id for item in read_items(path, on_bad=bad.append)] == ["first"]
    assert len(bad) == 1


def test_a_file_that_is_no_data_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PathNotFoundError, match="no such data file"):
        read_items(tmp_path / "absent.json")
    for content in (b"[{]", b"", b"[]", b"\xff\xfe\x00", b"not json\n"):
        path = tmp_path / "data.json"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"data\.json"):
            read_items(path)
