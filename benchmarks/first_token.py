"""Time from the file on disk to the first token, including decoding and re-encoding.

Without codec primitives, a model waits for frames: 64 or 8 evenly spaced frames of the source are decoded, converted
to RGB and resized. With primitives, it waits for `cope encode` and `cope extract` into an empty cache, and for
reading from it; a second question about the same video waits for the reading only. Frames are taken by decoding
everything or by seeking, whichever is faster in a run of each beforehand. Both stages use their default number of
processes.

The model's time is measured on the video's own token plan, once for all plans with the same numbers of slots: the
prompts of such plans differ by a few text tokens.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.sampling import sample_frames
from benchmarks.shared import measured, new_parser, run_script, stage_settings
from cope_cli.cache.frames import Frames
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache
from cope_cli.cli import show
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.data.prompt import Timeline
from cope_cli.data.samples import Sample, Visuals, read_visuals
from cope_cli.evaluate.config import TtftConfig
from cope_cli.evaluate.runner import QUESTION, Runner
from cope_cli.evaluate.tokens import BASELINE_FRAMES, SLOTS_PER_GOP
from cope_cli.model.token_plan import PAPER_TABLE_KEYFRAMES
from cope_cli.stages.batch import default_workers
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.stages.frames import FramesRequest
from cope_cli.types import OnProgress

STEPS = ("decode", "encode", "extract", "read")


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One configuration of one video; medians over the rounds.

    Attributes:
        video: the file's name.
        configuration: what the model sees.
        method: how frames were taken, "decoding all" or "seeking"; empty with primitives.
        num_rgb: RGB slots.
        num_p: P slots.
        visual_tokens: RGB tokens, Delta-tokens, newlines.
        text_tokens: the other tokens of the prompt.
        seconds: wall seconds by step, `STEPS`.
        cpu_seconds: CPU time of all steps and processes.
        ttft_seconds: the model's time to the first token.
        total_seconds: from the file to the first token.
        again_seconds: as `total_seconds` for a second question: the cache is read again, frames are decoded again.
    """

    video: str
    configuration: str
    method: str
    num_rgb: int
    num_p: int
    visual_tokens: int
    text_tokens: int
    seconds: dict[str, float]
    cpu_seconds: float
    ttft_seconds: float
    total_seconds: float
    again_seconds: float


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """The input of a question, and the time it took to prepare it."""

    sample: Sample
    seconds: dict[str, float]
    cpu_seconds: float


@dataclass
class _Steps:
    """A stopwatch over `STEPS`, with the CPU of this process and of its children."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STEPS, 0.0))
    start: float = field(default_factory=time.perf_counter)
    start_cpu: float = field(default_factory=lambda: _cpu_seconds())

    def done(self, step: str) -> None:
        """Count the time since the last step as this one's."""
        now = time.perf_counter()
        self.seconds[step] += now - self.start
        self.start = now

    def prepared(self, sample: Sample) -> _Prepared:
        """Return the sample with what it took."""
        return _Prepared(sample=sample, seconds=self.seconds, cpu_seconds=_cpu_seconds() - self.start_cpu)


def _cpu_seconds() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def measure_first_token(
    runner: Runner,
    videos: Sequence[Path],
    encode: EncodeConfig,
    extract: ExtractConfig,
    *,
    on_progress: OnProgress = lambda done, total: None,
) -> list[FileRecord]:
    """Measure every configuration of every video.

    Args:
        runner: the model.
        videos: source files, at least one.
        encode: how to encode.
        extract: what to extract.
        on_progress: called with (runs done, runs in all).

    Raises:
        CopeError: a video failed.
    """
    rounds, records = runner.config.rounds, []
    frame_counts = (BASELINE_FRAMES, BASELINE_FRAMES // SLOTS_PER_GOP)
    total = len(videos) * (rounds + 1) * (len(frame_counts) + len(PAPER_TABLE_KEYFRAMES))
    done = 0
    ttft: dict[tuple[int, int], float] = {}  # by numbers of RGB and P slots
    _through_cache(
        runner, videos[0], PAPER_TABLE_KEYFRAMES[0], encode, extract
    )  # loads or compiles what the stages need
    runner.run(runner.made_sample(1, 1), num_new_tokens=2)  # warms the model up
    for video in videos:
        by_seeking = {f"{count} RGB frames": _is_seeking_faster(runner, video, count) for count in frame_counts}
        variants: dict[str, Callable[[], _Prepared]] = {
            name: partial(_sampled, runner, video, count, by_seeking[name])
            for name, count in zip(by_seeking, frame_counts, strict=True)
        }
        variants |= {
            f"K = {k}": partial(_through_cache, runner, video, k, encode, extract) for k in PAPER_TABLE_KEYFRAMES
        }
        prepared: dict[str, list[_Prepared]] = {name: [] for name in variants}
        for _ in range(rounds):
            for name, prepare in variants.items():
                prepared[name].append(prepare())
                on_progress(done := done + 1, total)
        for name, runs in prepared.items():
            plan = runs[0].sample.prompt.plan
            key = (plan.num_rgb_slots, plan.num_delta_slots)
            if key not in ttft:
                ttft[key] = statistics.median(
                    runner.run(runs[0].sample, num_new_tokens=1).ttft_seconds for _ in range(rounds)
                )
            on_progress(done := done + 1, total)
            records.append(_record(video, name, by_seeking.get(name), runs, ttft[key]))
    return records


def _record(
    video: Path, name: str, by_seeking: bool | None, runs: Sequence[_Prepared], ttft_seconds: float
) -> FileRecord:
    prompt = runs[0].sample.prompt
    seconds = {step: statistics.median(run.seconds[step] for run in runs) for step in STEPS}
    return FileRecord(
        video=video.name,
        configuration=name,
        method="" if by_seeking is None else "seeking" if by_seeking else "decoding all",
        num_rgb=prompt.plan.num_rgb_slots,
        num_p=prompt.plan.num_delta_slots,
        visual_tokens=prompt.num_visual_tokens,
        text_tokens=prompt.num_text_tokens,
        seconds=seconds,
        cpu_seconds=statistics.median(run.cpu_seconds for run in runs),
        ttft_seconds=ttft_seconds,
        total_seconds=sum(seconds.values()) + ttft_seconds,
        again_seconds=seconds["decode"] + seconds["read"] + ttft_seconds,
    )


def _is_seeking_faster(runner: Runner, video: Path, num_frames: int) -> bool:
    """Return whether seeking takes less wall time than decoding all; also warms the file's pages."""
    seconds = {}
    for by_seeking in (False, True):
        start = time.perf_counter()
        sample_frames(video, num_frames, runner.geometry.image_px, by_seeking=by_seeking)
        seconds[by_seeking] = time.perf_counter() - start
    return seconds[True] < seconds[False]


def _sampled(runner: Runner, video: Path, num_frames: int, by_seeking: bool) -> _Prepared:
    """Take evenly spaced frames from the source."""
    steps = _Steps()
    frames = sample_frames(video, num_frames, runner.geometry.image_px, by_seeking=by_seeking)
    count, grid = len(frames.rgb), runner.config.grid_px
    timeline = Timeline(
        slot_gop=(0,) * count,
        slot_seconds=frames.seconds,
        window_seconds=frames.video_seconds / max(count - 1, 1),
        video_seconds=frames.video_seconds,
    )
    prompt = runner.builder(count).ask(QUESTION, timeline, max_new_tokens=1)
    visuals = Visuals(
        rgb=frames.rgb,
        motion=np.empty((0, 2, grid, grid), np.int16),
        residual=np.empty((0, grid, grid, 3), np.int16),
        frame_size_px=np.empty((0, 2), np.int32),
    )
    steps.done("decode")
    return steps.prepared(Sample(prompt=prompt, visuals=visuals))


def _through_cache(
    runner: Runner, video: Path, keyframes: int, encode: EncodeConfig, extract: ExtractConfig
) -> _Prepared:
    """Encode, extract and read in a new cache, which is removed afterwards."""
    side, workers = runner.geometry.image_px, default_workers()
    with tempfile.TemporaryDirectory(prefix="cope-bench-") as folder:
        cache, steps = Cache(Path(folder)), _Steps()
        encoded = encode_video(video, cache, encode, workers=workers)
        steps.done("encode")
        request = FramesRequest(size_px=side, keyframes_per_gop=keyframes)
        extracted = extract_video(encoded.name, cache, extract, frames=request, workers=workers)
        steps.done("extract")
        entry = cache.primitives_entry(extracted.name)
        assert entry is not None
        primitives = Primitives(entry)
        prompt = runner.builder(keyframes).ask(QUESTION, Timeline.of(primitives), max_new_tokens=1)
        visuals = read_visuals(primitives, Frames(entry, side), prompt.plan, side)
        steps.done("read")
        return steps.prepared(Sample(prompt=prompt, visuals=visuals))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the time from the file to the first token."""
    description = "Measure the time from a video file to the first token, including decoding and re-encoding."
    parser = new_parser("first_token", description, "fusion", "grid", "short-side", "rounds", "device")
    parser.add_argument("--geometry", default="tiny", help="random weights of this size: tiny (default), 0.5b or 7b")
    dtype_help = "number format of the weights; auto (default): bfloat16 on a GPU, float32 on a CPU"
    parser.add_argument("--dtype", default="auto", help=dtype_help)
    parser.add_argument("--share-layers", action="store_true", help="let all LLM layers share one layer's weights")
    options = parser.parse_args(arguments)
    videos, encode, extract = stage_settings(options)
    config = TtftConfig(
        geometry=options.geometry,
        dtype=options.dtype,
        device=options.device,
        rounds=options.rounds,
        grid_px=options.grid,
        shares_layers=options.share_layers,
    )
    runner = Runner(config)
    records = measured("runs", lambda report: measure_first_token(runner, videos, encode, extract, on_progress=report))
    if options.json:
        show.print_json(records)
    else:
        _show(records)


def _show(records: Sequence[FileRecord]) -> None:
    def text(seconds: float) -> str:
        return f"{seconds:.3f}" if seconds < 10 else f"{seconds:.1f}"

    show.print_table(
        "From the file to the first token, seconds; 'again' is a second question about the same video",
        ["video", "shown", "tokens", *STEPS, "CPU", "TTFT", "all", "again", "method"],
        [
            (
                r.video,
                f"{r.configuration} ({r.num_rgb} RGB, {r.num_p} P)",
                f"{r.visual_tokens + r.text_tokens:,}",
                *(text(r.seconds[step]) if r.seconds[step] else "-" for step in STEPS),
                *(text(seconds) for seconds in (r.cpu_seconds, r.ttft_seconds, r.total_seconds, r.again_seconds)),
                r.method or "-",
            )
            for r in records
        ],
    )


if __name__ == "__main__":
    run_script(main)
