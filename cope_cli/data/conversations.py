r"""Training conversations in the item format of LLaVA-Video-178K, as JSON or JSON lines.

```
{"id": "clip-0", "video": "clips/a.mp4", "conversations": [
    {"from": "human", "value": "<image>\nWhat happened?"}, {"from": "gpt", "value": "A cat jumps."}, ...]}
```

`<image>` stands for the video, once, in the first question; where it is absent the video comes first. It always comes
first in the prompt, wherever the first question has it. Covered: one video per item, questions and answers in turn.
Not covered, refused by name: items without a video, system turns, `<image>` anywhere else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from cope_cli.errors import DataError, PathNotFoundError

IMAGE_PLACEHOLDER = "<image>"
_FORMAT = "The format is that of LLaVA-Video-178K: see sample_videos/qa.json."


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Item:
    """A conversation about one video.

    Attributes:
        id: the file's own name for it; need not be unique.
        video: path of the video as the file has it.
        turns: at least one, without the placeholder.
        where: file, position and id, for messages.
    """

    id: str
    video: str
    turns: tuple[Turn, ...]
    where: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question to answer about a video.

    Attributes:
        id: of its item; the turns of a conversation after the first are `<id>#2`, `<id>#3`, ...
        video: path of the video as the file has it.
        text: the question.
        history: earlier turns of the same conversation, with the file's answers.
        expected: the file's answer; "" if it has none.
        where: file, position and id, for messages.
    """

    id: str
    video: str
    text: str
    history: tuple[Turn, ...] = ()
    expected: str = ""
    where: str


def read_questions(path: Path, *, on_bad: Callable[[DataError], None]) -> list[Question]:
    """Read every question of a file: training items, or `{"id", "video", "question"}` with an `"answer"` if known.

    Args:
        path: a JSON list, or one item per line.
        on_bad: called with the error of each malformed item, which is then left out.

    Raises:
        PathNotFoundError: there is no such file.
        DataError: the file is not JSON.
    """
    questions: list[Question] = []
    for where, value in _values(path):
        try:
            if isinstance(value, dict) and "question" in value:
                value = {**value, "conversations": _as_turns(value, where)}
            item = _item(value, where, has_answers="question" not in value)
        except DataError as error:
            on_bad(error)
            continue
        for number, turn in enumerate(item.turns):
            questions.append(
                Question(
                    id=item.id if number == 0 else f"{item.id}#{number + 1}",
                    video=item.video,
                    text=turn.question,
                    history=item.turns[:number],
                    expected=turn.answer,
                    where=item.where,
                )
            )
    return questions


def _as_turns(value: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Return a plain question, and its answer if there is one, as a conversation."""
    if "conversations" in value:
        _refuse(where, "question and conversations, one of them expected")
    return [{"from": "human", "value": value["question"]}, {"from": "gpt", "value": value.get("answer", "")}]


def read_items(path: Path, *, on_bad: Callable[[DataError], None] | None = None) -> list[Item]:
    """Read every item of a data file.

    Args:
        path: a JSON list of items, or one item per line.
        on_bad: called with the error of each malformed item, which is then left out; None raises the first one.

    Raises:
        PathNotFoundError: there is no such file.
        DataError: an item is malformed, or the file is not JSON or has no items; says what was found and expected.
    """
    items = []
    for where, value in _values(path):
        try:
            items.append(_item(value, where))
        except DataError as error:
            if on_bad is None:
                raise
            on_bad(error)
    if not items:
        raise DataError(f"{path}: no usable item found, at least one expected", _FORMAT)
    return items


def _values(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each item's place in the file and its JSON value; a line that is not JSON gives its text."""
    if not path.is_file():
        raise PathNotFoundError(f"{path}: no such data file", "Name a .json or .jsonl file with --data.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}", _FORMAT) from error
    if text.lstrip().startswith("["):
        try:
            values = json.loads(text)
        except ValueError as error:
            raise DataError(f"{path}: starts like a JSON list, but is not JSON: {error}", _FORMAT) from error
        for number, value in enumerate(values):
            yield f"{path}: item {number}", value
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError:
                value = line
            yield f"{path}: line {number}", value


def _item(value: Any, where: str, *, has_answers: bool = True) -> Item:
    """Check one item."""
    if not isinstance(value, dict):
        _refuse(where, f"{_shown(value)} found, a JSON object expected")
    if not isinstance(value.get("id"), str | int) or isinstance(value["id"], bool):
        _refuse(where, f"id is {_shown(value.get('id'))}, a string or a whole number expected")
    where = f"{where} (id {str(value['id'])!r})"
    video, conversations = value.get("video"), value.get("conversations")
    if not isinstance(video, str) or not video.strip():
        _refuse(where, f"video is {_shown(video)}, a path expected")
    if not isinstance(conversations, list) or not conversations or len(conversations) % 2:
        count = len(conversations) if isinstance(conversations, list) else _shown(conversations)
        _refuse(where, f"conversations has {count} turns, questions and answers in turn expected")
    texts = [_text(turn, where, number, ("human", "gpt")[number % 2]) for number, turn in enumerate(conversations)]
    texts[0] = texts[0].replace(IMAGE_PLACEHOLDER, "", 1).strip()
    for number, text in enumerate(texts):
        if IMAGE_PLACEHOLDER in text:
            _refuse(where, f"turn {number} has an {IMAGE_PLACEHOLDER} too many; one, in the first question, expected")
        if not text and (has_answers or number % 2 == 0):
            _refuse(where, f"turn {number} is empty, text expected")
    turns = tuple(Turn(question=q, answer=a) for q, a in zip(texts[::2], texts[1::2], strict=True))
    return Item(id=str(value["id"]), video=video, turns=turns, where=where)


def _text(turn: Any, where: str, number: int, role: str) -> str:
    """Return the text of one turn, stripped."""
    if not isinstance(turn, dict) or turn.get("from") != role:
        found = turn.get("from") if isinstance(turn, dict) else turn
        _refuse(where, f"turn {number} is from {_shown(found)}, {role!r} expected")
    value = turn.get("value")
    if not isinstance(value, str):
        _refuse(where, f"turn {number} has the value {_shown(value)}, text expected")
    return value.strip()


def _refuse(where: str, problem: str) -> NoReturn:
    raise DataError(f"{where}: {problem}", _FORMAT)


def _shown(value: Any, limit: int = 60) -> str:
    """Return a value as a message shows it."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
