"""How quality, GOP, picture size, 4MV and codec change the primitives, and a model's answers.

One factor changes at a time; all others keep their defaults. Every setting takes a video from its file to primitives
in a temporary cache, without RGB frames. CPU seconds are of one run in this process, all threads.
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.coding import StreamCoding, read_coding
from benchmarks.shared import measured, new_parser, run_script, stage_settings
from benchmarks.warp import warp_errors
from cope_cli.ask.config import AskConfig, Way
from cope_cli.ask.models import load_model
from cope_cli.ask.questions import answer_questions
from cope_cli.ask.settings import find_model
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache
from cope_cli.cli import show
from cope_cli.config import DirectConfig, EncodeConfig, ExtractConfig
from cope_cli.errors import DataError, UsageError, VideoError
from cope_cli.model.checkpoint.folders import LoadedVideoLM
from cope_cli.stages.direct import extract_direct
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.stages.sources import short_names
from cope_cli.types import OnProgress

#: The factors, in the order of the tables.
FACTORS = ("quality", "GOP", "short side", "4MV", "codec")

#: Asked if no other file is named.
SAMPLE_QUESTIONS = Path("sample_videos/qa.json")


@dataclass(frozen=True, kw_only=True)
class FactorValues:
    """The values that factors take in addition to the defaults.

    Attributes:
        qualities: constant quantisers.
        gop_frames: distances between I-frames, frames.
        short_sides_px: limits on the shorter side, pixels; 0 is the source's size.
    """

    qualities: tuple[int, ...] = (2, 4, 8, 16, 31)
    gop_frames: tuple[int, ...] = (60, 120, 240, 480)
    short_sides_px: tuple[int, ...] = (144, 224, 384, 0)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One value of one factor.

    Attributes:
        factor: one of `FACTORS`.
        value: the value as tables show it.
        encode: how to re-encode; None reads the video's own stream directly.
        is_default: whether this is the default of the factor.
    """

    factor: str
    value: str
    encode: EncodeConfig | None
    is_default: bool


@dataclass(frozen=True, kw_only=True)
class SettingCost:
    """What one setting gives of one video.

    Attributes:
        video: the file's path.
        factor: the factor that changes.
        value: its value.
        is_default: whether the value is the default.
        codec: FFmpeg's name of the codec that the primitives come from.
        bytes_per_second: size of the video stream that the primitives come from.
        copy_mae: mean absolute error of the previous slot against a P slot, levels of 0..255.
        warp_mae: the same for the previous slot, moved by the fused motion.
        intra_share: area of P- and B-frames without a vector, 0..1.
        cache_bytes_per_slot: size of the primitives on disk.
        cpu_seconds: CPU time from the file to primitives.
        num_slots: slots made.
        num_p_slots: P slots among these; with none, both errors are 0 and mean nothing.
    """

    video: str
    factor: str
    value: str
    is_default: bool
    codec: str
    bytes_per_second: float
    copy_mae: float
    warp_mae: float
    intra_share: float
    cache_bytes_per_slot: float
    cpu_seconds: float
    num_slots: int
    num_p_slots: int


@dataclass(frozen=True, kw_only=True)
class SettingAnswers:
    """How a model answers when its videos come with one setting.

    Attributes:
        factor: the factor that changes.
        value: its value.
        is_default: whether the value is the default.
        num_expected: questions that have an expected answer.
        num_equal: answers equal to the expected one.
        accuracy: share of equal answers, 0..1.
    """

    factor: str
    value: str
    is_default: bool
    num_expected: int
    num_equal: int
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class SensitivityReport:
    """All settings of all videos.

    Attributes:
        costs: by video, then in the order of the settings.
        answers: in the order of the settings; empty without a model.
        not_direct: by path of a video or a file of questions, why it cannot be read directly; its reports lack that
            setting.
    """

    costs: tuple[SettingCost, ...]
    answers: tuple[SettingAnswers, ...]
    not_direct: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A model and its questions.

    Attributes:
        loaded: the model.
        questions: a file of questions with answers, beside the videos.
        config: how to show them; `way` is set by the codec that is measured.
    """

    loaded: LoadedVideoLM
    questions: Path
    config: AskConfig


def settings_of(base: EncodeConfig, values: FactorValues) -> list[Setting]:
    """Return every setting: each factor's values with the default among them, in the order of `FACTORS`."""
    sides = sorted({*values.short_sides_px, base.short_side_px}, key=lambda side: (side == 0, side))
    changes: list[tuple[str, str, EncodeConfig | None]] = [
        *(("quality", str(q), replace(base, quality=q)) for q in sorted({*values.qualities, base.quality})),
        *(("GOP", str(gop), replace(base, gop_frames=gop)) for gop in sorted({*values.gop_frames, base.gop_frames})),
        *(("short side", str(side) if side else "source", replace(base, short_side_px=side)) for side in sides),
        *(("4MV", "on" if four else "off", replace(base, four_vectors=four)) for four in (False, True)),
        ("codec", "MPEG-4", base),
        ("codec", "direct", None),
    ]
    return [Setting(factor=f, value=v, encode=encode, is_default=encode == base) for f, v, encode in changes]


def measure_sensitivity(
    videos: Sequence[Path],
    encode: EncodeConfig,
    extract: ExtractConfig,
    *,
    values: FactorValues | None = None,
    asked: Asked | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> SensitivityReport:
    """Measure every setting of every video, and optionally a model's answers.

    Args:
        videos: source files.
        encode: the defaults of the factors.
        extract: fusion window and grid of all settings.
        values: the values of the factors.
        asked: a model and its questions; None asks no model.
        on_progress: called with (settings done, settings in all), counted over all videos.

    Raises:
        VideoError: a video cannot be used.
        DataError: the questions have no answers to compare with.
    """
    settings = settings_of(encode, values or FactorValues())
    total = len(settings) * (len(videos) + (asked is not None))
    costs: list[SettingCost] = []
    not_direct: dict[str, str] = {}
    done = 0
    for video in videos[:1]:
        _warm_up(video, encode, extract)
    for video in videos:
        known: dict[EncodeConfig | None, SettingCost] = {}
        for setting in settings:
            on_progress(done, total)
            done += 1
            try:
                if setting.encode not in known:
                    known[setting.encode] = _measure(video, setting, extract)
            except VideoError as error:
                if setting.encode is not None:
                    raise
                not_direct[str(video)] = error.message
                continue
            cost = known[setting.encode]
            costs.append(replace(cost, factor=setting.factor, value=setting.value, is_default=setting.is_default))
    answers: tuple[SettingAnswers, ...] = ()
    if asked is not None:
        answers = _answers(asked, settings, not_direct, lambda count: on_progress(done + count, total))
    return SensitivityReport(costs=tuple(costs), answers=answers, not_direct=not_direct)


def _warm_up(video: Path, encode: EncodeConfig, extract: ExtractConfig) -> None:
    """Compile the kernels of both ways, so that the first setting does not include it."""
    with tempfile.TemporaryDirectory(prefix="cope-bench-") as folder:
        cache = Cache(Path(folder))
        encoded = encode_video(video, cache, replace(encode, short_side_px=64, quality=31))
        extract_video(encoded.name, cache, extract)
        extract_direct(cache.encoded_folder / f"{encoded.name}.mp4", cache, DirectConfig(extract=extract))


def _measure(video: Path, setting: Setting, extract: ExtractConfig) -> SettingCost:
    with tempfile.TemporaryDirectory(prefix="cope-bench-") as folder:
        cache = Cache(Path(folder))
        start = time.process_time()
        if setting.encode is None:
            stream, name = video, extract_direct(video, cache, DirectConfig(extract=extract)).name
        else:
            encoded = encode_video(video, cache, setting.encode).name
            stream, name = cache.encoded_folder / f"{encoded}.mp4", extract_video(encoded, cache, extract).name
        cpu_seconds = time.process_time() - start
        return _cost(str(video), setting, cache, name, read_coding(stream), cpu_seconds)


def _cost(
    video: str, setting: Setting, cache: Cache, name: str, coding: StreamCoding, cpu_seconds: float
) -> SettingCost:
    entry = cache.primitives_entry(name)
    assert entry is not None
    errors = warp_errors(Primitives(entry))
    num_slots = entry.manifest.info["num_slots"]
    return SettingCost(
        video=video,
        factor=setting.factor,
        value=setting.value,
        is_default=setting.is_default,
        codec=coding.codec,
        bytes_per_second=coding.num_bytes / coding.seconds,
        copy_mae=errors.copy_mae,
        warp_mae=errors.bilinear_mae,
        intra_share=coding.intra_share,
        cache_bytes_per_slot=sum(record.size_bytes for record in entry.manifest.files.values()) / num_slots,
        cpu_seconds=cpu_seconds,
        num_slots=num_slots,
        num_p_slots=errors.num_p_slots,
    )


def _answers(
    asked: Asked, settings: Sequence[Setting], not_direct: dict[str, str], on_done: Callable[[int], None]
) -> tuple[SettingAnswers, ...]:
    known: dict[EncodeConfig | None, tuple[int, int]] = {}
    found = []
    for number, setting in enumerate(settings):
        on_done(number)
        try:
            if setting.encode not in known:
                known[setting.encode] = _count_right(asked, setting.encode)
        except VideoError as error:
            if setting.encode is not None:
                raise
            not_direct[str(asked.questions)] = error.message
            continue
        num_expected, num_equal = known[setting.encode]
        found.append(
            SettingAnswers(
                factor=setting.factor,
                value=setting.value,
                is_default=setting.is_default,
                num_expected=num_expected,
                num_equal=num_equal,
                accuracy=num_equal / num_expected,
            )
        )
    return tuple(found)


def _count_right(asked: Asked, encode: EncodeConfig | None) -> tuple[int, int]:
    """Ask all questions; return how many answers can be judged, and how many are right."""
    config = replace(asked.config, way=Way.DIRECT if encode is None else Way.REENCODE)
    with tempfile.TemporaryDirectory(prefix="cope-bench-") as folder:
        root = Path(folder)
        record = answer_questions(
            asked.questions, root / "answers.jsonl", asked.loaded, Cache(root), config, encode=encode, workers=1
        )
    if record.errors:
        raise record.errors[0]
    if not record.num_expected:
        raise DataError(f"{asked.questions}: no question has an answer", "Name a file with answers with --data.")
    return record.num_expected, record.num_equal


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print every setting; draw the figures if a file is named."""
    description = "Measure how quality, GOP, picture size, 4MV and codec change the primitives and a model's answers."
    shared = ("fusion", "grid", "short-side", "device", "max-new-tokens", "runs")
    parser = new_parser("sensitivity", description, *shared)
    parser.add_argument("--model", help="also ask this model or finetune run (default: ask none)")
    data_help = "questions with answers for --model (default: %(default)s)"
    parser.add_argument("--data", type=Path, default=SAMPLE_QUESTIONS, help=data_help)
    parser.add_argument("--out", type=Path, help="draw the figures into this PNG (default: none)")
    options = parser.parse_args(arguments)
    if options.out is not None and options.out.suffix.lower() != ".png":
        raise UsageError(f"--out {options.out}: expected a name that ends in .png")
    if options.model is None and options.data != SAMPLE_QUESTIONS:
        raise UsageError("--data: name the model to ask with --model")
    videos, encode, extract = stage_settings(options)
    asked = None if options.model is None else _asked(options)
    report = measured(
        "settings",
        lambda progress: measure_sensitivity(videos, encode, extract, asked=asked, on_progress=progress),
    )
    if options.out is not None:
        from benchmarks.sensitivity_plot import draw_sensitivity

        draw_sensitivity(report, options.out)
    if options.json:
        show.print_json(report)
    else:
        _show(report, [str(video) for video in videos], f"grid {options.grid}, s = {options.fusion}")


def _asked(options: Namespace) -> Asked:
    if not options.data.is_file():
        raise UsageError(f"{options.data}: no such file of questions", "Name one with --data.")
    return Asked(
        loaded=load_model(find_model(options.model, options.runs), options.device),
        questions=options.data,
        config=AskConfig(max_new_tokens=options.max_new_tokens),
    )


def _show(report: SensitivityReport, videos: Sequence[str], extract: str) -> None:
    names = short_names(videos)
    for video, name in names.items():
        show.print_table(
            f"{name}: one factor changed at a time, * marks the default; {extract}",
            ["factor", "value", "video/s", "previous slot", "warped", "intra blocks", "cache/slot", "CPU s"],
            [
                (
                    cost.factor,
                    cost.value + f" {cost.codec}" * (cost.value == "direct") + " *" * cost.is_default,
                    show.as_bytes(cost.bytes_per_second),
                    f"{cost.copy_mae:.2f}" if cost.num_p_slots else "-",
                    f"{cost.warp_mae:.2f}" if cost.num_p_slots else "-",
                    f"{100 * cost.intra_share:.2f} %",
                    show.as_bytes(cost.cache_bytes_per_slot),
                    f"{cost.cpu_seconds:.2f}",
                )
                for cost in report.costs
                if cost.video == video
            ],
        )
        if video in report.not_direct:
            print(f"not read directly: {report.not_direct[video]}")
    if report.answers:
        show.print_table(
            "Right answers by how the videos are encoded; * marks the default",
            ["factor", "value", "right", "questions", "accuracy"],
            [
                (
                    answer.factor,
                    answer.value + " *" * answer.is_default,
                    str(answer.num_equal),
                    str(answer.num_expected),
                    f"{100 * answer.accuracy:.1f} %",
                )
                for answer in report.answers
            ],
        )
    for questions in report.not_direct.keys() - names.keys():
        print(f"{questions} not asked directly: {report.not_direct[questions]}")


if __name__ == "__main__":
    run_script(main)
