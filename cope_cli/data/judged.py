r"""Questions whose answers can be judged by a program, and how they are.

An item is a training item with some fields more, of which each may be absent:

```
"kind": "direction"                      what is asked; "all" where absent
"needs": "motion" or "static"            whether an I-frame suffices
"form": "open", "choice" or "caption"    how it is asked; "open" where absent
"answer": "left"                         the short answer; where absent, what the item has as its answer
"options": ["left", "right", ...]        of a choice, in the order of their letters
"chance": 0.25                           what guessing scores, where the data knows it
"about": "object at the left"            words that an answer may add: they are not judged
```

An open answer is right if its words are the expected ones, or contain them and no other answer that the data has for
this kind. Before that, `about` of this and of all questions of its kind is left out of it: whoever is asked which way
something goes may say where it is, too. A choice is right by its letter at the start, or if it holds
that option's words and no other's; a letter after them must be its own.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cope_cli.data.conversations import Item, Turn, read_items
from cope_cli.errors import DataError

_LETTERS = "ABCDEFGH"
_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, kw_only=True)
class JudgedQuestion:
    """One question with what is needed to judge its answer.

    Attributes:
        item: the conversation; its last turn is the question.
        kind: what is asked.
        needs: "motion", "static", or "" if the data does not say.
        form: "open", "choice" or "caption".
        answer: the short answer.
        options: of a choice, in the order of their letters.
        chance: share of right answers of whoever sees no motion, if the data says it.
        about: words that are left out of an answer in a sentence before it is judged.
    """

    item: Item
    kind: str
    needs: str
    form: str
    answer: str
    options: tuple[str, ...] = ()
    chance: float | None = None
    about: str = ""

    @property
    def text(self) -> str:
        """The question."""
        return self.item.turns[-1].question

    @property
    def history(self) -> tuple[Turn, ...]:
        """Earlier turns."""
        return self.item.turns[:-1]


def read_judged(path: Path) -> list[JudgedQuestion]:
    """Read a file of training items with the fields above.

    Raises:
        PathNotFoundError, DataError: as `read_items`; or a field has a value that cannot be used.
    """
    items = read_items(path)
    found = []
    for item, value in zip(items, _objects(path), strict=True):
        options, form, answer = value.get("options"), value.get("form", "open"), value.get("answer")
        if options is not None and (not isinstance(options, list) or not all(isinstance(o, str) for o in options)):
            raise DataError(f"{item.where}: options is {options!r}, a list of texts expected")
        if form not in ("open", "choice", "caption"):
            raise DataError(f"{item.where}: form is {form!r}, open, choice or caption expected")
        found.append(
            JudgedQuestion(
                item=item,
                kind=str(value.get("kind", "all")),
                needs=str(value.get("needs", "")),
                form=form,
                answer=item.turns[-1].answer if answer is None else str(answer),
                options=tuple(options or ()),
                chance=None if value.get("chance") is None else float(value["chance"]),
                about=str(value.get("about", "")),
            )
        )
    return found


def _objects(path: Path) -> list[Mapping[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        return list(json.loads(text))
    return [json.loads(line) for line in text.splitlines() if line.strip()]


class Judge:
    """Says whether answers are right; knows which answers each kind of question has, and what may be said beside them.

    Args:
        questions: all that are asked.
    """

    def __init__(self, questions: Iterable[JudgedQuestion]) -> None:
        self._answers: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._about: dict[str, set[str]] = defaultdict(set)
        for question in questions:
            self._answers[question.kind, question.form].add(question.answer)
            if question.about:
                self._about[question.kind].add(question.about)

    def is_right(self, question: JudgedQuestion, answer: str) -> bool:
        """Return whether an answer is right."""
        found, expected = _words(answer), _words(question.answer)
        for about in sorted({question.about, *self._about[question.kind]}, key=len, reverse=True):
            found = _without(found, _words(about))
        if question.form == "choice" and question.options:
            return _chosen(answer, found, question.options) == _chosen(question.answer, expected, question.options)
        if found == expected:
            return True
        if question.form == "caption" or not _holds(found, expected):
            return False
        others = (_words(other) for other in self._answers[question.kind, question.form])
        return not any(other != expected and _holds(found, other) and not _holds(expected, other) for other in others)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _holds(words: Sequence[str], part: Sequence[str]) -> bool:
    """Whether some words stand in a row among others."""
    size = len(part)
    return any(list(words[start : start + size]) == list(part) for start in range(len(words) - size + 1))


def _without(words: list[str], part: Sequence[str]) -> list[str]:
    """Leave some words that stand in a row out of others, the first time they do."""
    starts = [start for start in range(len(words) - len(part) + 1) if words[start : start + len(part)] == list(part)]
    return words[: starts[0]] + words[starts[0] + len(part) :] if starts and part else words


def _chosen(text: str, words: Sequence[str], options: Sequence[str]) -> int | None:
    """Return which option an answer chooses: by its letter at the start, or as the only one that its words hold.

    Of two options, of which one holds the other, it is that one. Words that end in another option's letter choose none.

    Args:
        text: the answer.
        words: its words, but those that are not judged.
        options: in the order of their letters.
    """
    match = re.match(r"\W*([A-Ha-h])(?:\W|$)", text)
    if match and (index := _LETTERS.index(match[1].upper())) < len(options):
        return index
    told = {index: option for index, option in enumerate(map(_words, options)) if _holds(words, option)}
    whole = [i for i, a in told.items() if not any(a != b and _holds(b, a) for b in told.values())]
    letters = [*_LETTERS.casefold()[: len(options)]]
    is_clear = len(whole) == 1 and (words[-1] not in letters or words[-1] == letters[whole[0]])
    return whole[0] if is_clear else None


def chance(questions: Sequence[JudgedQuestion]) -> float:
    """Return the share of right answers of whoever guesses.

    It is what the data says of each question. Of those where it says nothing, it is that of always saying the same: the
    commonest answer to open questions of a kind; to choices the commonest letter, or any if that scores more.
    """
    expected = sum(question.chance for question in questions if question.chance is not None)
    groups: dict[tuple[str, str], list[JudgedQuestion]] = defaultdict(list)
    for question in questions:
        if question.chance is None:
            groups[question.kind, question.form].append(question)
    for group in groups.values():
        commonest = max(Counter(question.answer for question in group).values())
        expected += max(commonest, sum(1 / len(question.options) for question in group if question.options))
    return expected / max(len(questions), 1)
