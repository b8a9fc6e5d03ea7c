"""`cope train check`: read all training data before a GPU is paid for.

It reads the data files, the cache's manifests and slot tables, the headers of the model's files and its tokenizer, but
no pixel and no weight. `cope cache verify` checks every byte of the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from cope_cli.cache.frames import Frames
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache, PrimitivesEntry
from cope_cli.codec.source import open_source
from cope_cli.data.conversations import Item
from cope_cli.data.datasets import FinetuneDataset
from cope_cli.data.prompt import Prompt, PromptBuilder, Timeline
from cope_cli.data.recipes import DataFile, TrainingData, read_data
from cope_cli.data.videos import VideoIndex
from cope_cli.errors import CopeError, DataError, TooLongError
from cope_cli.model.checkpoint.hub import model_folder
from cope_cli.model.checkpoint.outline import Outline, read_outline
from cope_cli.model.delta_encoder import DeltaEncoderConfig
from cope_cli.model.sizes.small import build_small_videolm
from cope_cli.train.finetune.config import FinetuneConfig
from cope_cli.types import OnProgress

ProblemKind = Literal["malformed", "missing video", "unreadable video", "no entry", "bad entry", "too long"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that would stop a run, or leave a sample out with --skip-bad.

    Attributes:
        kind: what is wrong.
        where: the item or the entry.
        message: what was found and expected.
        hint: how to mend it.
    """

    kind: ProblemKind
    where: str
    message: str
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How a number of tokens is spread over the samples; percentiles by nearest rank.

    Attributes:
        min: smallest.
        median: half have at most this.
        p95: 95 % have at most this.
        max: largest.
    """

    min: int
    median: int
    p95: int
    max: int

    @classmethod
    def of(cls, values: Iterable[int]) -> Spread:
        """Work it out; all zeros without a value."""
        ranked = sorted(values) or [0]
        median, p95 = (ranked[-(-percent * len(ranked) // 100) - 1] for percent in (50, 95))
        return cls(min=ranked[0], median=median, p95=p95, max=ranked[-1])


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """The samples at one number of keyframes per GOP.

    Attributes:
        keyframes: K.
        share: how often it is drawn, 0 to 1.
        num_samples: samples of which at least one GOP fits.
        num_shortened: of these, those that show fewer whole GOPs than asked for.
        num_refused: samples of which not even one GOP fits.
        visual: RGB tokens, Delta-tokens and their newlines.
        text: all other tokens.
        total: both.
        totals: `total` of each sample, for a histogram.
    """

    keyframes: int
    share: float
    num_samples: int
    num_shortened: int
    num_refused: int
    visual: Spread
    text: Spread
    total: Spread
    totals: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """All that was found.

    Attributes:
        files: the data files and how many items were taken of each.
        num_items: usable items.
        num_entries: cache entries they are about.
        problems: everything that is wrong.
        context_tokens: longest sequence of the model.
        delta_encoder: which Delta-encoder was counted with.
        num_frames_missing: RGB slots that a run would add to the cache first.
        frames_missing_bytes: their size before compression.
        lengths: the samples, by keyframes per GOP.
    """

    files: list[DataFile]
    num_items: int
    num_entries: int
    problems: list[Problem]
    context_tokens: int
    delta_encoder: str
    num_frames_missing: int
    frames_missing_bytes: int
    lengths: list[Lengths]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        values = asdict(self)
        values["files"] = [{**file, "path": str(file["path"])} for file in values["files"]]
        return {**values, "is_good": not self.problems}


def check_data(
    cache: Cache,
    config: FinetuneConfig,
    *,
    on_progress: OnProgress = lambda done, total: None,
) -> CheckReport:
    """Read everything that a finetune run will need.

    Args:
        cache: holds the primitives.
        config: the run's settings; `skip_bad` is not asked.
        on_progress: called with (items measured, items in all).

    Raises:
        PathNotFoundError: data file or model do not exist.
        CheckpointError: the model cannot be used.
        DataError: the data file is no list of items, or the recipe is malformed.
    """
    outline, described = _outline(config)
    problems: list[Problem] = []
    data = _data(config, problems)
    index = VideoIndex(cache, fusion_frames=config.fusion_frames, grid_px=config.grid_px)
    problems += [_problem("bad entry", error, f"entry {name}") for name, error in index.errors.items()]
    found = _find(data.items, index, config, problems)
    timelines = _timelines({entry.name: entry for _, entry in found}, problems)
    usable = [(item, entry) for item, entry in found if entry.name in timelines]
    builder = PromptBuilder(
        tokenizer=outline.tokenizer,
        costs=outline.model.token_costs,
        context_tokens=outline.model.context_tokens,
        max_gops=config.max_gops,
    )
    lengths = _measure(usable, timelines, builder, config, problems, on_progress)
    size_px = outline.model.vision_size_px
    missing = _missing_frames([item for item, _ in usable], index, builder, config, size_px, problems)
    return CheckReport(
        files=data.files,
        num_items=len(data.items),
        num_entries=len(timelines),
        problems=problems,
        context_tokens=outline.model.context_tokens,
        delta_encoder=described,
        num_frames_missing=missing,
        frames_missing_bytes=missing * 3 * size_px**2,
        lengths=lengths,
    )


def _outline(config: FinetuneConfig) -> tuple[Outline, str]:
    """Return the model without its weights, and which Delta-encoder it has in words."""
    if config.model is None:
        model, tokenizer = build_small_videolm(grid_px=config.grid_px)
        outline = Outline(model=model, tokenizer=tokenizer, has_own_delta=False, stored_dtype=torch.float32)
        return outline, "preset small"
    preset = config.delta_preset or "paper"
    outline = read_outline(model_folder(config.model), DeltaEncoderConfig.preset(preset, grid_px=config.grid_px))
    return outline, "the model's own" if outline.has_own_delta else f"preset {preset}"


def _data(config: FinetuneConfig, problems: list[Problem]) -> TrainingData:
    """Read the items; a file in which all are malformed is a problem like each of them."""
    try:
        bad = partial(_problem, "malformed")
        return read_data(config.data, seed=config.seed, on_bad=lambda error: problems.append(bad(error)))
    except DataError as error:
        if not problems:
            raise
        problems.append(_problem("malformed", error))
        return TrainingData(items=[], files=[])


def _problem(kind: ProblemKind, error: CopeError, where: str = "") -> Problem:
    place = error.message.split(": ")[:2]  # of an item: file, then position and id
    return Problem(kind=kind, where=where or ": ".join(place), message=error.message, hint=error.hint)


def _find(
    items: Sequence[Item], index: VideoIndex, config: FinetuneConfig, problems: list[Problem]
) -> list[tuple[Item, PrimitivesEntry]]:
    """Return the items that have an entry; for the others it reports whether their video could have one."""
    found = []
    for item in items:
        try:
            found.append((item, index.find(item.video, video_root=config.video_root)))
        except CopeError as error:
            kind, because = _why_missing(item.video, config.video_root)
            message = f"{because}; {error.message}" if because else error.message
            problems.append(Problem(kind=kind, where=item.where, message=message, hint=error.hint))
    return found


def _why_missing(video: str, video_root: Path | None) -> tuple[ProblemKind, str]:
    """Say whether a video without an entry is there and can be decoded; its first frame stands for the rest."""
    path = Path(video) if video_root is None else video_root / video
    if not path.is_file():
        # Without a root, a path that leads nowhere from here says nothing.
        return ("missing video", f"{path}: no such file") if video_root is not None else ("no entry", "")
    try:
        with open_source(path, 0) as source:
            for _ in source.frames():
                return "no entry", ""
    except CopeError as error:
        return "unreadable video", error.message
    return "unreadable video", f"{path}: no frame can be decoded"


def _timelines(entries: dict[str, PrimitivesEntry], problems: list[Problem]) -> dict[str, Timeline]:
    """Read the slot table of each entry."""
    timelines = {}
    for name, entry in sorted(entries.items()):
        try:
            timelines[name] = Timeline.of(Primitives(entry))
        except CopeError as error:
            problems.append(_problem("bad entry", error, f"entry {name}"))
    return timelines


def _measure(
    usable: Sequence[tuple[Item, PrimitivesEntry]],
    timelines: dict[str, Timeline],
    builder: PromptBuilder,
    config: FinetuneConfig,
    problems: list[Problem],
    on_progress: OnProgress,
) -> list[Lengths]:
    """Build every prompt at every number of keyframes; returns the lengths by keyframes."""
    mix = config.keyframe_mix
    builders = [replace(builder, keyframes_per_gop=keyframes) for keyframes in mix.counts]
    prompts: list[list[Prompt]] = [[] for _ in builders]
    for number, (item, entry) in enumerate(usable):
        for place, one in enumerate(builders):
            try:
                prompts[place].append(one.finetune(item.turns, timelines[entry.name]))
            except TooLongError as error:
                where = f"{item.where}, entry {entry.name}, {one.keyframes_per_gop} keyframes per GOP"
                problems.append(Problem(kind="too long", where=where, message=error.message, hint=error.hint))
        on_progress(number + 1, len(usable))
    lengths = []
    for keyframes, built in zip(mix.counts, prompts, strict=True):
        wanted = [min(prompt.plan.num_gops_total, config.max_gops) for prompt in built]
        lengths.append(
            Lengths(
                keyframes=keyframes,
                share=mix.share(keyframes),
                num_samples=len(built),
                num_shortened=sum(p.plan.num_gops_used < want for p, want in zip(built, wanted, strict=True)),
                num_refused=len(usable) - len(built),
                visual=Spread.of(prompt.num_visual_tokens for prompt in built),
                text=Spread.of(prompt.num_text_tokens for prompt in built),
                total=Spread.of(len(prompt) for prompt in built),
                totals=tuple(len(prompt) for prompt in built),
            )
        )
    return lengths


def _missing_frames(
    items: Sequence[Item],
    index: VideoIndex,
    builder: PromptBuilder,
    config: FinetuneConfig,
    size_px: int,
    problems: list[Problem],
) -> int:
    """Count the RGB slots that some sample may show and the cache lacks."""
    if not items:
        return 0
    dataset = FinetuneDataset(
        items, index, builder, size_px=size_px, keyframes=config.keyframe_mix, video_root=config.video_root
    )
    count = 0
    for name in dataset.entry_names:
        try:
            count += len(set(dataset.rgb_slots(name)) - Frames(index.entries[name], size_px).slots)
        except CopeError as error:
            problems.append(_problem("bad entry", error, f"entry {name}"))
    return count
