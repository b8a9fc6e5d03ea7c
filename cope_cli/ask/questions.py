"""Answers a file of questions about many videos, in batches.

Each answer is appended to a file of JSON lines at once, with its question, model and settings. A rerun skips questions
that have an answer there and retries those that failed.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from cope_cli.ask.config import AskConfig
from cope_cli.ask.shown import ShownVideo, run_stages_of_many
from cope_cli.cache.store import Cache, PrimitivesEntry
from cope_cli.config import DIRECT, EncodeConfig
from cope_cli.data.collate import collate_prompts
from cope_cli.data.conversations import Question, read_questions
from cope_cli.data.prompt import Prompt
from cope_cli.errors import CopeError, DataError, StorageError, UsageError
from cope_cli.files import write_text
from cope_cli.model.checkpoint.folders import LoadedVideoLM
from cope_cli.types import OnItem, OnProgress

#: First bytes of each line of answers; the last line may be incomplete.
_LINE_START = b'{"id": '


@dataclass(frozen=True, kw_only=True)
class QuestionsRecord:
    """Result of answering a file of questions.

    Attributes:
        out: the file of answers.
        num_questions: questions in the file.
        num_answered: questions answered in this run.
        num_known: questions answered by an earlier run.
        num_direct: answers in `out` about videos that were read directly; the others were re-encoded.
        num_expected: answers in `out` whose question comes with an expected answer.
        num_equal: answers equal to the expected one, except for case, outer spaces and a full stop.
        errors: one error per failed question or malformed item.
    """

    out: Path
    num_questions: int
    num_answered: int
    num_known: int
    num_direct: int
    num_expected: int
    num_equal: int
    errors: tuple[CopeError, ...]


def answer_questions(
    path: Path,
    out: Path,
    loaded: LoadedVideoLM,
    cache: Cache,
    config: AskConfig,
    *,
    video_root: Path | None = None,
    encode: EncodeConfig | None = None,
    batch_size: int = 4,
    workers: int = 0,
    on_stage: OnItem = lambda stage, done, total: None,
    on_answers: OnProgress = lambda done, total: None,
) -> QuestionsRecord:
    """Answer every question of a file.

    Args:
        path: training items, or `{"id", "video", "question"}`; a JSON list or JSON lines.
        out: file of answers; those of an earlier run with the same model and settings are kept.
        loaded: the model and its tokenizer.
        cache: cache of the primitives.
        config: how to show the videos.
        video_root: folder that the videos' paths are relative to and must lie in (default: the folder of `path`).
        encode: how to re-encode the videos (default: as `cope encode` does).
        batch_size: questions answered at a time.
        workers: processes that encode and extract; 0 means one per core. Scripts need a `__main__` guard.
        on_stage: called with (stage, videos done, number of videos).
        on_answers: called after every batch.

    Raises:
        PathNotFoundError, DataError: the file cannot be read.
        UsageError: `out` holds answers of another model or other settings.
        StorageError: `out` cannot be written.
    """
    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: expected at least 1")
    bad: list[CopeError] = []
    questions = read_questions(path, on_bad=bad.append)
    encoding = {} if encode is None else {"encode": encode.to_dict()}
    answers = _Answers(out, {"model": str(loaded.folder), **asdict(config), **encoding})
    todo = answers.missing(questions)
    root = (path.parent if video_root is None else video_root).resolve()
    entries, failed = _entries(todo, root, loaded, cache, config, encode=encode, workers=workers, on_stage=on_stage)
    answers.begin()
    for question in todo:
        if question.video in failed:
            answers.add_error(question, failed[question.video])
    ready = (question for question in sorted(todo, key=_first_seen(todo)) if question.video in entries)
    shown = _ShownVideos(entries, loaded, config, max_open=batch_size)
    while batch := list(islice(ready, batch_size)):
        for question, answer in _answer_batch(batch, shown, loaded, config):
            if isinstance(answer, CopeError):
                answers.add_error(question, answer)
            else:
                answers.add(question, answer)
        on_answers(answers.num_added, len(todo))
    return answers.record(len(questions), bad)


def _first_seen(questions: Sequence[Question]) -> Callable[[Question], int]:
    """Return a sort key that groups questions by video and otherwise keeps their order."""
    places: dict[str, int] = {}
    for question in questions:
        places.setdefault(question.video, len(places))
    return lambda question: places[question.video]


def _entries(
    questions: Sequence[Question], root: Path, loaded: LoadedVideoLM, cache: Cache, config: AskConfig, **options: Any
) -> tuple[dict[str, PrimitivesEntry], dict[str, CopeError]]:
    """Return the primitives of the questions' videos and the errors of failed videos, by path as in the file."""
    paths: dict[str, Path] = {}
    failed: dict[str, CopeError] = {}
    for question in questions:
        path = (root / question.video).resolve()
        if path.is_relative_to(root):
            paths[question.video] = path
        else:
            message = f"{question.where}: video {question.video} is not below {root}"
            failed[question.video] = DataError(message, "Name the folder that holds the videos with --video-root.")
    entries, errors = run_stages_of_many(sorted(set(paths.values())), loaded, cache, config, **options)
    failed |= {video: errors[path] for video, path in paths.items() if path in errors}
    return {video: entries[path] for video, path in paths.items() if path in entries}, failed


class _ShownVideos:
    """The videos of the last few questions, with their embeddings."""

    def __init__(
        self, entries: Mapping[str, PrimitivesEntry], loaded: LoadedVideoLM, config: AskConfig, max_open: int
    ) -> None:
        self.entries = entries
        self.loaded = loaded
        self.config = config
        self.max_open = max_open
        self._open: OrderedDict[str, ShownVideo] = OrderedDict()

    def __getitem__(self, video: str) -> ShownVideo:
        if video not in self._open:
            self._open[video] = ShownVideo(self.entries[video], self.loaded, self.config)
            if len(self._open) > self.max_open:
                self._open.popitem(last=False)
        return self._open[video]


def _answer_batch(
    questions: Sequence[Question], shown: _ShownVideos, loaded: LoadedVideoLM, config: AskConfig
) -> list[tuple[Question, dict[str, Any] | CopeError]]:
    """Answer questions as one batch; return an answer, or the error of a question that cannot be asked, for each."""
    results: list[tuple[Question, dict[str, Any] | CopeError]] = []
    prompts: list[tuple[Question, Prompt, torch.Tensor]] = []
    for question in questions:
        try:
            video = shown[question.video]
            prompt = video.prompt(question.text, question.history)
            prompts.append((question, prompt, video.visual_embeddings(prompt.plan)))
        except CopeError as error:
            results.append((question, error))
    if not prompts:
        return results
    model, tokenizer = loaded.model, loaded.tokenizer
    batch = collate_prompts([prompt for _, prompt, _ in prompts], pad_id=tokenizer.pad_token_id)
    tokens = model.generate(
        batch.to(model.device),
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        visual=torch.cat([visual for _, _, visual in prompts]),
    )
    for (question, prompt, _), row in zip(prompts, tokens, strict=True):
        answer = {
            "answer": str(tokenizer.decode(row, skip_special_tokens=True)).strip(),
            "way": shown[question.video].entry.way,
            "num_visual_tokens": prompt.num_visual_tokens,
            "num_text_tokens": prompt.num_text_tokens,
        }
        results.append((question, answer))
    return results


class _Answers:
    """The file of answers.

    Args:
        path: the file; what is there must be of the same settings.
        settings: model and configuration.

    Raises:
        UsageError: it holds answers of other settings, or something else.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.settings = settings
        self.lines = self._read()
        self.num_known = len(self.lines)
        self.num_added = 0
        self.errors: list[CopeError] = []

    def _read(self) -> list[dict[str, Any]]:
        """Return the answers in the file, without failures and an incomplete last line, which are tried again."""
        if not self.path.exists():
            return []
        found = []
        lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line or (number == len(lines) and line.startswith(_LINE_START[: len(line)])):
                continue
            value = self._parsed(line, number)
            if "error" not in value:
                self._check_settings(value["asked"])
                found.append(value)
        return found

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict) and isinstance(value.get("asked"), dict):
                return value
        raise UsageError(f"{self.path}: line {number} is not an answer of cope", "Name another file with --out.")

    def _check_settings(self, asked: Mapping[str, Any]) -> None:
        different = sorted(name for name in self.settings if asked.get(name) != self.settings[name])
        if different:
            was = ", ".join(f"{name} {asked.get(name)!r} (now {self.settings[name]!r})" for name in different)
            raise UsageError(
                f"{self.path}: holds answers of other settings: {was}",
                "Name another file with --out, or move this one away.",
            )

    def missing(self, questions: Sequence[Question]) -> list[Question]:
        """Return the questions without an answer; a question that the file repeats needs one answer for each."""
        known = Counter((line["id"], line["video"], line["question"]) for line in self.lines)
        todo = []
        for question in questions:
            key = (question.id, question.video, question.text)
            if known[key]:
                known[key] -= 1
            else:
                todo.append(question)
        return todo

    def begin(self) -> None:
        """Write the known answers, without failures."""
        write_text(self.path, "".join(map(_line, self.lines)))

    def add(self, question: Question, answer: Mapping[str, Any]) -> None:
        """Append an answer."""
        line = {**self._header(question), **answer, "asked": self.settings}
        self._append(line)
        self.lines.append(line)
        self.num_added += 1

    def add_error(self, question: Question, error: CopeError) -> None:
        """Append a failure; the next run tries the question again."""
        self._append({**self._header(question), "error": error.message, "asked": self.settings})
        self.errors.append(type(error)(f"question {question.id}: {error.message}", error.hint))

    def record(self, num_questions: int, bad: Sequence[CopeError]) -> QuestionsRecord:
        """Return the result for the whole file."""
        judged = [line for line in self.lines if line.get("expected")]
        return QuestionsRecord(
            out=self.path,
            num_questions=num_questions,
            num_answered=self.num_added,
            num_known=self.num_known,
            num_direct=sum(line.get("way") == DIRECT for line in self.lines),
            num_expected=len(judged),
            num_equal=sum(_plain(line["answer"]) == _plain(line["expected"]) for line in judged),
            errors=(*bad, *self.errors),
        )

    @staticmethod
    def _header(question: Question) -> dict[str, Any]:
        header = {"id": question.id, "video": question.video, "question": question.text}
        return header | ({"expected": question.expected} if question.expected else {})

    def _append(self, line: Mapping[str, Any]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(line))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(
                f"{self.path}: cannot be written: {error}", "Run the command again: finished answers are kept."
            ) from error


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _plain(answer: str) -> str:
    return answer.strip().rstrip(".").casefold()
