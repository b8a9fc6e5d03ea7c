"""`cope bench --accuracy`: how many of a data file's questions a model answers right, kind by kind.

What the questions of one video share, its visual tokens above all, is computed once. Beside each share of right
answers stand its 95 % interval (Wilson) and chance: what always giving the commonest answer scores. `delta` "zero" and
"off" show the same model no motion (paper H.3 and H.4).
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from cope_cli.ask.config import AskConfig
from cope_cli.ask.settings import keyframes_shown
from cope_cli.ask.shown import ShownVideo
from cope_cli.cache.store import Cache
from cope_cli.data.judged import Judge, JudgedQuestion, chance
from cope_cli.data.packing import pack_prompts
from cope_cli.data.prompt import Prompt
from cope_cli.data.videos import VideoIndex
from cope_cli.errors import DataError, UsageError
from cope_cli.files import write_json, write_text
from cope_cli.model.checkpoint.folders import LoadedVideoLM
from cope_cli.model.checkpoint.tokenizer import TURN_END
from cope_cli.model.decoding import SharedPrefix, greedy_answers
from cope_cli.model.token_plan import TokenPlan
from cope_cli.types import OnProgress

_Z = 1.959964  # of a two-sided 95 % interval


@dataclass(frozen=True, kw_only=True)
class AccuracyRow:
    """Right answers among some questions.

    Attributes:
        name: which questions.
        num_questions: how many.
        num_right: answered right.
        chance: share of right answers of the commonest answer.
    """

    name: str
    num_questions: int
    num_right: int
    chance: float

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.num_right / self.num_questions

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        return wilson(self.num_right, self.num_questions)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and what follows from them as JSON values."""
        low, high = self.interval
        return {**asdict(self), "accuracy": self.accuracy, "low": low, "high": high}


@dataclass(frozen=True, kw_only=True)
class AccuracyReport:
    """What was measured.

    Attributes:
        model: its folder.
        data: the file of questions.
        settings: how the videos were shown.
        num_videos: asked about.
        rows: overall, by what is needed, by form, and by kind.
        cpu_seconds: process time of all answers, reading included.
        answers: one for each question: id, video, kind, form, question, expected, answer, right.
    """

    model: str
    data: str
    settings: Mapping[str, Any]
    num_videos: int
    rows: tuple[AccuracyRow, ...]
    cpu_seconds: float
    answers: tuple[Mapping[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all but the single answers as JSON values."""
        num = len(self.answers)
        return {
            "model": self.model,
            "data": self.data,
            "settings": dict(self.settings),
            "num_videos": self.num_videos,
            "num_questions": num,
            "cpu_seconds": self.cpu_seconds,
            "cpu_seconds_per_question": self.cpu_seconds / num,
            "rows": {row.name: row.to_dict() for row in self.rows},
        }


def wilson(num_right: int, num: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    share = num_right / num
    middle = (share + _Z**2 / (2 * num)) / (1 + _Z**2 / num)
    half = _Z / (1 + _Z**2 / num) * math.sqrt(share * (1 - share) / num + _Z**2 / (4 * num**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def measure_accuracy(
    questions: Sequence[JudgedQuestion],
    loaded: LoadedVideoLM,
    cache: Cache,
    config: AskConfig,
    *,
    data: str,
    videos_at_once: int = 8,
    on_progress: OnProgress = lambda done, total: None,
) -> AccuracyReport:
    """Ask a model every question and judge its answers.

    Args:
        questions: at least one; their videos have been encoded and extracted.
        loaded: the model and its tokenizer.
        cache: holds the primitives.
        config: how to show the videos; greedy answers only.
        data: where the questions are from.
        videos_at_once: videos whose questions are answered together.
        on_progress: called with (questions answered, questions in all).

    Raises:
        EntryNotFoundError: a video is not in the cache.
        DataError: there are no questions.
        UsageError: a temperature was given.
    """
    if not questions:
        raise DataError(f"{data}: no questions")
    if config.temperature:
        raise UsageError(f"--temperature {config.temperature}: accuracy is measured on the likeliest answers")
    encoder = loaded.model.delta_encoder
    index = VideoIndex(
        cache,
        fusion_frames=config.fusion_frames or loaded.fusion_frames or 30,
        grid_px=224 if encoder is None else encoder.config.grid_px,
    )
    by_video: dict[str, list[int]] = defaultdict(list)
    for number, question in enumerate(questions):
        by_video[question.item.video].append(number)
    start = time.process_time()
    found: dict[int, str] = {}
    asked = (
        one
        for video, numbers in by_video.items()
        for one in _asked(ShownVideo(index.find(video), loaded, config), numbers, questions)
    )
    while group := list(islice(asked, videos_at_once)):
        for same in _of_one_length(group):
            found |= _answers(same, loaded, config.max_new_tokens)
        on_progress(len(found), len(questions))
    seconds = time.process_time() - start
    answers = [found[number] for number in range(len(questions))]
    judge = Judge(questions)
    right = [judge.is_right(question, answer) for question, answer in zip(questions, answers, strict=True)]
    return AccuracyReport(
        model=str(loaded.folder),
        data=data,
        settings={**asdict(config), "keyframes_per_gop": keyframes_shown(config, loaded.keyframes_per_gop)},
        num_videos=len(by_video),
        rows=tuple(_rows(questions, right)),
        cpu_seconds=seconds,
        answers=tuple(map(_answer, questions, answers, right)),
    )


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Questions about a video with a common beginning.

    Attributes:
        numbers: of the questions.
        prefix: what they share, and how each continues.
    """

    numbers: Sequence[int]
    prefix: SharedPrefix


def _asked(video: ShownVideo, numbers: Sequence[int], questions: Sequence[JudgedQuestion]) -> Iterator[_Asked]:
    """Yield a video's questions; they are apart where a long text leaves room for fewer GOPs."""
    by_plan: dict[TokenPlan, list[tuple[int, Prompt]]] = defaultdict(list)
    for number in numbers:
        prompt = video.prompt(questions[number].text, questions[number].history)
        by_plan[prompt.plan].append((number, prompt))
    for plan, found in by_plan.items():
        prompts = [prompt for _, prompt in found]
        block = pack_prompts(prompts).block
        assert block is not None
        length = block.index(1)
        prefix = SharedPrefix(
            ids=prompts[0].ids[:length],
            kinds=prompts[0].kinds[:length],
            visual=video.visual_embeddings(plan),
            rests=[prompt.ids[length:] for prompt in prompts],
        )
        yield _Asked(numbers=[number for number, _ in found], prefix=prefix)


def _of_one_length(group: Iterable[_Asked]) -> list[list[_Asked]]:
    """Return what can be computed together."""
    by_length: dict[int, list[_Asked]] = defaultdict(list)
    for asked in group:
        by_length[len(asked.prefix.ids)].append(asked)
    return list(by_length.values())


def _answers(group: Sequence[_Asked], loaded: LoadedVideoLM, max_new_tokens: int) -> dict[int, str]:
    """Return the answers to some questions by their numbers."""
    tokenizer = loaded.tokenizer
    tokens = greedy_answers(
        loaded.model,
        [asked.prefix for asked in group],
        pad_id=tokenizer.pad_token_id,
        end_id=tokenizer.convert_tokens_to_ids(TURN_END),
        max_new_tokens=max_new_tokens,
    )
    return {
        number: str(tokenizer.decode(answer, skip_special_tokens=True)).strip()
        for asked, answers in zip(group, tokens, strict=True)
        for number, answer in zip(asked.numbers, answers, strict=True)
    }


def _rows(questions: Sequence[JudgedQuestion], right: Sequence[bool]) -> Iterator[AccuracyRow]:
    """Yield all questions, then those of each need, form and kind."""
    groups: dict[str, list[int]] = {"all": list(range(len(questions)))}
    for field in ("needs", "form", "kind"):
        found: dict[str, list[int]] = defaultdict(list)
        for number, question in enumerate(questions):
            if value := getattr(question, field):
                found[f"{field} {value}"].append(number)
        groups |= dict(sorted(found.items()))
    for name, numbers in groups.items():
        yield AccuracyRow(
            name=name,
            num_questions=len(numbers),
            num_right=sum(right[number] for number in numbers),
            chance=chance([questions[number] for number in numbers]),
        )


def _answer(question: JudgedQuestion, answer: str, is_right: bool) -> dict[str, Any]:
    return {
        "id": question.item.id,
        "video": question.item.video,
        "kind": question.kind,
        "form": question.form,
        "question": question.text,
        "expected": question.answer,
        "answer": answer,
        "right": is_right,
    }


def write_accuracy(report: AccuracyReport, folder: Path) -> None:
    """Write accuracy.png, answers.jsonl and, last, accuracy.json."""
    folder.mkdir(parents=True, exist_ok=True)
    title = f"Delta-tokens {report.settings['delta']}, K = {report.settings['keyframes_per_gop']}"
    draw_accuracy(report.rows, title, folder / "accuracy.png")
    write_text(folder / "answers.jsonl", "".join(f"{json.dumps(answer)}\n" for answer in report.answers))
    write_json(folder / "accuracy.json", report.to_dict())


def draw_accuracy(rows: Sequence[AccuracyRow], title: str, path: Path) -> None:
    """Draw shares of right answers with their intervals, and chance beside them, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.32 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="right answers in percent", title=title, xlim=(0, 100))
    places = range(len(rows))
    shares = [100 * row.accuracy for row in rows]
    errors = [
        [share - 100 * row.interval[0] for share, row in zip(shares, rows, strict=True)],
        [100 * row.interval[1] - share for share, row in zip(shares, rows, strict=True)],
    ]
    axes.barh(places, shares, xerr=[[max(0.0, value) for value in side] for side in errors], color="#4477aa")
    axes.scatter([100 * row.chance for row in rows], places, marker="|", s=160, color="black", label="chance", zorder=3)
    axes.set_yticks(places, [f"{row.name} ({row.num_questions})" for row in rows])
    axes.invert_yaxis()
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=100)
    temporary.replace(path)
