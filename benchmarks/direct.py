"""From a video file to primitives on disk: directly, compared with re-encoding it first.

Both ways run in turn in one process, into a temporary cache, without RGB frames. A run includes hashing the source,
decoding, scaling, encoding and checking where the way needs them, extraction, compression and the manifest. Times are
CPU seconds of all threads, medians over the rounds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.shared import measured, new_parser, run_script, stage_settings
from benchmarks.warp import WarpRecord, warp_errors
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache
from cope_cli.cli import show
from cope_cli.config import DirectConfig, EncodeConfig, ExtractConfig
from cope_cli.errors import CopeError
from cope_cli.stages.direct import extract_direct
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.types import OnProgress


@dataclass(frozen=True, kw_only=True)
class WayCost:
    """One way from file to primitives.

    Attributes:
        cpu_seconds: CPU time of all threads.
        num_slots: slots made.
        num_iframe_slots: I-frame slots among these.
        copy_mae: mean absolute error of the previous slot against a P slot, levels of 0..255.
        warp_mae: the same for the previous slot, moved by the fused motion.
        primitives_bytes: size of the primitives on disk.
        encoded_bytes: size of the encoded video; 0 without re-encoding.
    """

    cpu_seconds: float
    num_slots: int
    num_iframe_slots: int
    copy_mae: float
    warp_mae: float
    primitives_bytes: int
    encoded_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class DirectCost:
    """Both ways for one video.

    Attributes:
        video: the file's name.
        codec: FFmpeg's name of its codec.
        width_px: width of its pictures.
        height_px: height of its pictures.
        num_frames: frames of the file.
        references: "exact" or "approximate".
        direct: without re-encoding.
        re_encoded: `cope encode`, then `cope extract`.
    """

    video: str
    codec: str
    width_px: int
    height_px: int
    num_frames: int
    references: str
    direct: WayCost
    re_encoded: WayCost

    @property
    def ratio(self) -> float:
        """CPU of the direct way over the other."""
        return self.direct.cpu_seconds / self.re_encoded.cpu_seconds


@dataclass(frozen=True, kw_only=True)
class DirectReport:
    """Both ways for all videos.

    Attributes:
        costs: the videos that could be measured, in order.
        errors: by path, why a video could not be measured: broken, or a codec that cannot be read directly.
    """

    costs: tuple[DirectCost, ...]
    errors: dict[str, CopeError]


def measure_direct(
    videos: Sequence[Path],
    encode: EncodeConfig,
    extract: ExtractConfig,
    *,
    rounds: int = 5,
    on_progress: OnProgress = lambda done, total: None,
) -> DirectReport:
    """Measure every video; one that fails is left out and does not stop the others.

    Args:
        videos: source files.
        encode: how to re-encode.
        extract: fusion window and grid of both.
        rounds: runs of each way, interleaved; the medians are reported.
        on_progress: called with (rounds done, rounds in all).
    """
    costs, errors = [], {}
    for number, video in enumerate(videos):
        with tempfile.TemporaryDirectory(prefix="cope-bench-") as folder:
            done = number * rounds
            report = lambda count, done=done: on_progress(done + count, len(videos) * rounds)  # noqa: E731
            try:
                costs.append(_measure(video, Cache(Path(folder)), encode, extract, rounds, report))
            except CopeError as error:
                errors[str(video)] = error
    return DirectReport(costs=tuple(costs), errors=errors)


def _measure(
    video: Path,
    cache: Cache,
    encode: EncodeConfig,
    extract: ExtractConfig,
    rounds: int,
    on_round: Callable[[int], None],
) -> DirectCost:
    config = DirectConfig(extract=extract)
    seconds: dict[str, list[float]] = {"direct": [], "re-encoded": []}
    names = {"direct": extract_direct(video, cache, config).name}  # compiles the kernels
    for number in range(rounds):
        start = time.process_time()
        extract_direct(video, cache, config, force=True)
        middle = time.process_time()
        encoded = encode_video(video, cache, encode, force=True)
        names["re-encoded"] = extract_video(encoded.name, cache, extract, force=True).name
        seconds["direct"].append(middle - start)
        seconds["re-encoded"].append(time.process_time() - middle)
        on_round(number + 1)
    found = {way: _opened(cache, name) for way, name in names.items()}
    info = found["direct"].entry.manifest.info
    return DirectCost(
        video=video.name,
        codec=info["codec"],
        width_px=info["width_px"],
        height_px=info["height_px"],
        num_frames=info["num_frames"],
        references=info["references"],
        direct=_cost(found["direct"], statistics.median(seconds["direct"]), 0),
        re_encoded=_cost(found["re-encoded"], statistics.median(seconds["re-encoded"]), encoded.size_bytes),
    )


def _opened(cache: Cache, name: str) -> Primitives:
    entry = cache.primitives_entry(name)
    assert entry is not None
    return Primitives(entry)


def _cost(primitives: Primitives, cpu_seconds: float, encoded_bytes: int) -> WayCost:
    errors: WarpRecord = warp_errors(primitives)
    info = primitives.entry.manifest.info
    return WayCost(
        cpu_seconds=cpu_seconds,
        num_slots=info["num_slots"],
        num_iframe_slots=info["num_iframe_slots"],
        copy_mae=errors.copy_mae,
        warp_mae=errors.bilinear_mae,
        primitives_bytes=sum(record.size_bytes for record in primitives.entry.manifest.files.values()),
        encoded_bytes=encoded_bytes,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print both ways; exits with 1 if a video failed."""
    description = "Measure CPU time and warp error of reading videos directly, compared with re-encoding them."
    options = new_parser("direct", description, "fusion", "grid", "short-side", "rounds").parse_args(arguments)
    videos, encode, extract = stage_settings(options)
    report = measured(
        "rounds",
        lambda progress: measure_direct(videos, encode, extract, rounds=options.rounds, on_progress=progress),
    )
    if options.json:
        show.print_json(report)
    elif report.costs:
        _show_costs(
            report.costs,
            f"From file to primitives, CPU s, grid {options.grid}, s = {options.fusion}, short side "
            f"{options.short_side}, medians of {options.rounds} rounds",
        )
    if report.errors:
        print(f"{len(report.errors)} of {len(videos)} failed:", file=sys.stderr)
        for error in report.errors.values():
            show.print_error(error, indent="  ")
        sys.exit(1)


def _show_costs(costs: Sequence[DirectCost], title: str) -> None:
    show.print_table(
        title,
        ["video", "codec", "size", "frames", "references", "encode + extract", "direct", "direct / both"],
        [
            (
                cost.video,
                cost.codec,
                f"{cost.width_px}x{cost.height_px}",
                str(cost.num_frames),
                cost.references,
                f"{cost.re_encoded.cpu_seconds:.2f}",
                f"{cost.direct.cpu_seconds:.2f}",
                f"{cost.ratio:.2f}",
            )
            for cost in costs
        ],
    )
    show.print_table(
        "Mean absolute error against the next slot, levels of 0..255",
        ["video", "way", "slots", "I-frame slots", "previous slot", "warped", "warped / previous", "primitives"],
        [
            (
                cost.video,
                name,
                str(way.num_slots),
                str(way.num_iframe_slots),
                f"{way.copy_mae:.2f}",
                f"{way.warp_mae:.2f}",
                f"{way.warp_mae / way.copy_mae:.2f}" if way.copy_mae else "-",
                show.as_bytes(way.primitives_bytes),
            )
            for cost in costs
            for name, way in (("re-encoded", cost.re_encoded), ("direct", cost.direct))
        ],
    )


if __name__ == "__main__":
    run_script(main)
