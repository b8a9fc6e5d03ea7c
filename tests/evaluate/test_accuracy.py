"""Right answers: the same answers as `ask` gives, judged as a person would, with honest intervals and chance."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from asked_videos import SAMPLES

from cope_cli.ask.config import AskConfig
from cope_cli.ask.conversation import Conversation
from cope_cli.ask.shown import run_stages
from cope_cli.cache.store import Cache
from cope_cli.data.judged import Judge, JudgedQuestion, chance, read_judged
from cope_cli.errors import DataError, EntryNotFoundError, UsageError
from cope_cli.evaluate.accuracy import AccuracyRow, measure_accuracy, wilson, write_accuracy
from cope_cli.model.checkpoint.folders import LoadedVideoLM
from cope_cli.model.decoding import SharedPrefix, greedy_answers

VIDEOS = ("still_scene.mp4", "camera_pan.mp4")
TEXTS = ("What happened?", "Which colour is the circle?", "A or B?")
ASKED = AskConfig(keyframes_per_gop=1, max_new_tokens=6)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[JudgedQuestion]:
    items = [
        {
            "id": f"{number}",
            "video": video,
            "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "A circle moves left."}],
            "kind": "what" if number else "colour",
            "needs": "motion",
            "answer": "moves left",
        }
        for video in VIDEOS
        for number, text in enumerate(TEXTS)
    ]
    path = tmp_path_factory.mktemp("judged") / "questions.json"
    path.write_text(json.dumps(items))
    return read_judged(path)


@pytest.fixture(scope="module")
def filled(lively: LoadedVideoLM, asked_cache: Cache) -> Cache:
    for video in VIDEOS:
        run_stages(SAMPLES / video, lively, asked_cache, ASKED)
    return asked_cache


def measured(questions: Any, lively: LoadedVideoLM, cache: Cache, **changes: Any) -> list[str]:
    report = measure_accuracy(questions, lively, cache, replace(ASKED, **changes), data="questions.json")
    return [answer["answer"] for answer in report.answers]


def test_answers_are_those_of_ask(
    questions: list[JudgedQuestion], lively: LoadedVideoLM, filled: Cache, tmp_path: Path
) -> None:
    expected = []
    for video in VIDEOS:
        for text in TEXTS:
            talk = Conversation.about(SAMPLES / video, lively, filled, ASKED)
            expected.append(talk.ask(text).text)
    assert len(set(expected)) > 1
    report = measure_accuracy(questions, lively, filled, ASKED, data="questions.json")
    assert [answer["answer"] for answer in report.answers] == expected
    assert {row.name: row.num_questions for row in report.rows} == {
        "all": 6,
        "needs motion": 6,
        "form open": 6,
        "kind colour": 2,
        "kind what": 4,
    }
    write_accuracy(report, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "accuracy.json").read_text())
    assert written["num_questions"] == 6
    assert len((tmp_path / "out" / "answers.jsonl").read_text().splitlines()) == 6
    assert (tmp_path / "out" / "accuracy.png").stat().st_size > 1000


def test_zeroed_and_left_out_delta_tokens_change_answers(
    questions: list[JudgedQuestion], lively: LoadedVideoLM, filled: Cache
) -> None:
    shown = {delta: measured(questions, lively, filled, delta=delta) for delta in ("on", "zero", "off")}
    assert shown["on"] != shown["zero"]
    assert shown["on"] != shown["off"]


def test_how_many_videos_are_asked_at_once_does_not_matter(
    questions: list[JudgedQuestion], lively: LoadedVideoLM, filled: Cache
) -> None:
    one = measure_accuracy(questions, lively, filled, ASKED, data="", videos_at_once=1)
    assert [answer["answer"] for answer in one.answers] == measured(questions, lively, filled)


def test_what_cannot_be_measured_is_refused(
    questions: list[JudgedQuestion], lively: LoadedVideoLM, filled: Cache
) -> None:
    with pytest.raises(DataError, match="no questions"):
        measured([], lively, filled)
    with pytest.raises(UsageError, match="temperature"):
        measured(questions, lively, filled, temperature=0.5)
    gone = replace(questions[0], item=replace(questions[0].item, video="gone.mp4"))
    with pytest.raises(EntryNotFoundError):
        measured([gone], lively, filled)


def test_prefixes_of_other_lengths_are_refused(lively: LoadedVideoLM) -> None:
    nothing = torch.zeros((0, 128))
    videos = [SharedPrefix(ids=[5] * n, kinds=[0] * n, visual=nothing, rests=[[6]]) for n in (3, 4)]
    with pytest.raises(ValueError, match="different lengths"):
        greedy_answers(lively.model, videos, pad_id=0, end_id=1, max_new_tokens=2)


def judged(question: JudgedQuestion, **changes: Any) -> JudgedQuestion:
    return replace(question, **{"form": "open", "options": (), "kind": "direction", **changes})


@pytest.mark.parametrize(
    ("answer", "found", "is_right"),
    [
        ("left", "Left.", True),
        ("left", "It moves left.", True),
        ("left", "It moves left, then right.", False),
        ("left", "It moves right.", False),
        ("left", "", False),
        ("left", "leftover", False),
        ("top left", "It is at the top left.", True),
        ("left", "It is at the top left.", False),
    ],
)
def test_open_answers(questions: list[JudgedQuestion], answer: str, found: str, is_right: bool) -> None:
    known = [judged(questions[0], answer=name) for name in ("left", "right", "top left")]
    assert Judge(known).is_right(judged(questions[0], answer=answer), found) is is_right


@pytest.mark.parametrize(
    ("answer", "found", "is_right"),
    [
        ("down", "The object at the left goes down.", True),
        ("left", "The object at the left goes down.", False),
        ("left", "The object at the left goes left.", True),
        ("down", "The object at the left goes left.", False),
        ("down", "The object at the bottom left goes down.", False),  # the data says no such place
        ("down", "At the top left, it goes down.", True),  # another question's place, that of another thing or not
        ("left", "At the top left, it goes down.", False),
        ("down", "At the top left, it goes down, then left.", False),
    ],
)
def test_the_place_where_a_thing_is_said_to_be_is_no_answer(
    questions: list[JudgedQuestion], answer: str, found: str, is_right: bool
) -> None:
    known = [judged(questions[0], answer=name) for name in ("left", "down")]
    known.append(judged(questions[0], answer="up", about="at the top left"))
    question = judged(questions[0], answer=answer, about="object at the left")
    assert Judge(known).is_right(question, found) is is_right


@pytest.mark.parametrize(
    ("found", "is_right"),
    [
        *(("B", True), ("b.", True), ("(B) right", True), ("right", True), ("Right, B.", True), ("right (B)", True)),
        *(("It moves right.", True), ("At the left, it moves right.", True), ("It moves right, B.", True)),
        *(
            ("A", False),
            ("left", False),
            ("", False),
            ("right, A.", False),
            ("left, B.", False),
            ("right or left", False),
            ("It moves left.", False),
            ("At the left, it moves up.", False),
            ("It moves right, A.", False),
        ),
    ],
)
def test_choices(questions: list[JudgedQuestion], found: str, is_right: bool) -> None:
    question = judged(questions[0], form="choice", options=("left", "right", "up"), answer="B", about="at the left")
    assert Judge([question]).is_right(question, found) is is_right


def test_captions_are_right_word_for_word(questions: list[JudgedQuestion]) -> None:
    question = judged(questions[0], form="caption", answer="The red circle stops.")
    judge = Judge([question])
    assert judge.is_right(question, "the red circle stops")
    assert not judge.is_right(question, "The red circle stops. The blue one moves.")


def test_chance_is_the_commonest_answer_or_what_the_data_says(questions: list[JudgedQuestion]) -> None:
    open_ones = [judged(questions[0], answer=name) for name in ("left", "left", "right")]
    assert chance(open_ones) == pytest.approx(2 / 3)
    letters = [judged(questions[0], form="choice", options=("left", "right"), answer=letter) for letter in "AAAB"]
    assert chance(letters) == pytest.approx(3 / 4)
    assert chance(letters[2:]) == pytest.approx(1 / 2)
    different = [judged(questions[0], form="choice", options=tuple("abcd"), answer=letter) for letter in "ABC"]
    assert chance(different) == pytest.approx(1 / 3)
    known = [judged(questions[0], answer="left", chance=0.25), judged(questions[0], answer="up", chance=0.5)]
    assert chance(known) == pytest.approx(0.375)


def test_wilson_against_published_values() -> None:
    # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert AccuracyRow(name="a", num_questions=148, num_right=15, chance=0.1).accuracy == pytest.approx(15 / 148)


@pytest.mark.parametrize(
    ("found", "is_right"),
    [("It ends up at the bottom left.", True), ("It ends up at the left.", False), ("At the top, bottom left.", False)],
)
def test_an_option_within_another_is_not_told_by_it(
    questions: list[JudgedQuestion], found: str, is_right: bool
) -> None:
    question = judged(questions[0], form="choice", options=("left", "bottom left", "top"), answer="B")
    assert Judge([question]).is_right(question, found) is is_right
