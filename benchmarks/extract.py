"""The cost of extraction, compared with its limit: decoding alone, with motion vectors exported as arrays.

Each video is encoded once into a temporary cache. Then four variants run in turn, several rounds, in one process: the
limit, extraction in memory, extraction with storage, and extraction with storage and a stopwatch inside. Times are CPU
seconds of all threads. Other tools that read motion vectors are measured too if they are installed.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.decoding import decode_with_vectors
from benchmarks.shared import measured, new_parser, run_script, stage_settings
from cope_cli.cache.store import Cache
from cope_cli.cli import show
from cope_cli.codec.gop import slots_of
from cope_cli.codec.mpeg4.stream import read_gop_spans
from cope_cli.codec.primitives import extract_slots
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.types import OnProgress

STEPS = ("decode", "trace", "convert", "residual", "compress", "write")
#: The step that the time of a function counts for. Other time is decoding while slots are made, and writing otherwise.
_TIMED = {
    "cope_cli.codec.primitives.block_grid": "trace",
    "cope_cli.codec.primitives.fuse_motion": "trace",
    "cope_cli.codec.colour.Picture.to_grid": "convert",
    "cope_cli.codec.primitives.warp": "residual",
    "cope_cli.codec.primitives.residual_of": "residual",
    "cope_cli.cache.primitives.compress": "compress",
}


@dataclass(frozen=True, kw_only=True)
class ExtractCost:
    """CPU milliseconds per frame, medians over the rounds, and ratios to the limit.

    Attributes:
        video: the source file's name.
        width_px: encoded width.
        height_px: encoded height.
        num_frames: frames of the encoded stream.
        grid_px: grid side G.
        fusion_frames: fusion window s.
        limit_ms: decoding by PyAV, motion vectors exported as arrays.
        in_memory_ms: extraction, nothing stored.
        stored_ms: extraction that writes motion, residual and grid frames to the cache, without RGB frames.
        steps_ms: the parts of `stored_ms` by step, measured in separate runs.
        peers_ms: other tools by name, if they are installed.
    """

    video: str
    width_px: int
    height_px: int
    num_frames: int
    grid_px: int
    fusion_frames: int
    limit_ms: float
    in_memory_ms: float
    stored_ms: float
    steps_ms: dict[str, float]
    peers_ms: dict[str, float]

    @property
    def in_memory_ratio(self) -> float:
        """Extraction without storage over the limit."""
        return self.in_memory_ms / self.limit_ms

    @property
    def stored_ratio(self) -> float:
        """Extraction with storage over the limit."""
        return self.stored_ms / self.limit_ms


def measure_extract(
    videos: Sequence[Path],
    encode: EncodeConfig,
    extract: ExtractConfig,
    *,
    rounds: int = 5,
    on_progress: OnProgress = lambda done, total: None,
) -> list[ExtractCost]:
    """Measure every video.

    Args:
        videos: source files.
        encode: how to encode them first.
        extract: what to extract.
        rounds: runs of each variant, interleaved; the medians are reported.
        on_progress: called with (runs done, runs in all).
    """
    costs = []
    num_done = 0

    def on_round() -> None:
        nonlocal num_done
        num_done += 1
        on_progress(num_done, len(videos) * rounds)

    for video in videos:
        with tempfile.TemporaryDirectory(prefix="cope-bench-") as folder:
            costs.append(_measure(video, Cache(Path(folder)), encode, extract, rounds, on_round))
    return costs


def _measure(
    video: Path,
    cache: Cache,
    encode: EncodeConfig,
    extract: ExtractConfig,
    rounds: int,
    on_round: Callable[[], None],
) -> ExtractCost:
    record = encode_video(video, cache, encode)
    entry = cache.encoded_entry(record.name)
    assert entry is not None
    slots = slots_of(read_gop_spans(entry.video), extract.fusion_frames, keep_tail=extract.keep_tail)
    stopwatch = _Stopwatch()

    def stored() -> None:
        extract_video(record.name, cache, extract, force=True)

    def split() -> None:
        with stopwatch.running():
            stored()

    variants: dict[str, Callable[[], object]] = {
        "limit": lambda: decode_with_vectors(entry.video),
        "in_memory": lambda: deque(extract_slots(entry.video, slots, extract.grid_px), maxlen=0),
        "stored": stored,
        "split": split,
    }
    peers = {name: run for name, run in _PEERS.items() if importlib.util.find_spec(name)}
    variants |= {name: _on(run, entry.video) for name, run in peers.items()}
    stored()  # compiles the kernels
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
        on_round()
    ms = {name: statistics.median(values) / record.num_frames * 1000 for name, values in seconds.items()}
    return ExtractCost(
        video=video.name,
        width_px=record.width_px,
        height_px=record.height_px,
        num_frames=record.num_frames,
        grid_px=extract.grid_px,
        fusion_frames=extract.fusion_frames,
        limit_ms=ms["limit"],
        in_memory_ms=ms["in_memory"],
        stored_ms=ms["stored"],
        steps_ms={step: stopwatch.median(step) / record.num_frames * 1000 for step in STEPS},
        peers_ms={name: ms[name] for name in peers},
    )


def _mvextractor(path: Path) -> None:
    """motion-vector-extractor: vectors as arrays, without fusion or residual."""
    capture = importlib.import_module("mvextractor.videocap").VideoCap()
    if not capture.open(str(path)):
        raise RuntimeError(f"{path}: motion-vector-extractor cannot open it")
    while capture.read()[0]:
        pass
    capture.release()


_PEERS: dict[str, Callable[[Path], None]] = {"mvextractor": _mvextractor}


def _on(run: Callable[[Path], None], path: Path) -> Callable[[], None]:
    return lambda: run(path)


class _Stopwatch:
    """CPU seconds of each step, per run, read inside the functions of extraction."""

    def __init__(self) -> None:
        self._runs: list[dict[str, float]] = []
        self._inside = 0.0

    def median(self, step: str) -> float:
        """Seconds of a step in the median run."""
        return statistics.median(run[step] for run in self._runs)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Measure the extraction in the block."""
        run = dict.fromkeys(STEPS, 0.0)
        start = time.process_time()
        with contextlib.ExitStack() as patches:
            for name, step in _TIMED.items():
                patches.enter_context(mock.patch(name, self._timed(_function(name), run, step)))
            patches.enter_context(mock.patch("cope_cli.stages.extract.extract_slots", self._timed_slots(run)))
            yield
        run["write"] = time.process_time() - start - sum(run.values())
        self._runs.append(run)

    def _timed(self, function: Callable[..., Any], run: dict[str, float], step: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **options)
            finally:
                run[step] += time.process_time() - start

        return call

    def _timed_slots(self, run: dict[str, float]) -> Callable[..., Iterator[Any]]:
        def slots(*args: Any, **options: Any) -> Iterator[Any]:
            made = extract_slots(*args, **options)
            while True:
                start, counted = time.process_time(), sum(run.values())
                slot = next(made, None)
                run["decode"] += time.process_time() - start - (sum(run.values()) - counted)
                if slot is None:
                    return
                yield slot

        return slots


def _function(name: str) -> Callable[..., Any]:
    """Return the function or method of this dotted name."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found: Any = importlib.import_module(".".join(parts[:length]))
            for attribute in parts[length:]:
                found = getattr(found, attribute)
            function: Callable[..., Any] = found
            return function
    raise LookupError(name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print what extraction costs."""
    description = "Measure the CPU time of extraction, compared with decoding alone."
    parser = new_parser("extract", description, "fusion", "grid", "short-side", "rounds")
    parser.set_defaults(short_side=0)
    options = parser.parse_args(arguments)
    videos, encode, extract = stage_settings(options)
    costs = measured(
        "rounds", lambda report: measure_extract(videos, encode, extract, rounds=options.rounds, on_progress=report)
    )
    if options.json:
        show.print_json(costs)
        return
    peers = sorted({name for cost in costs for name in cost.peers_ms})
    show.print_table(
        f"CPU ms per frame, grid {extract.grid_px}, s = {extract.fusion_frames}, medians of {options.rounds} rounds; "
        "ratio to decoding with vectors",
        ["video", "size", "frames", "decode + vectors", "in memory", "stored", *peers],
        [
            (
                cost.video,
                f"{cost.width_px}x{cost.height_px}",
                str(cost.num_frames),
                f"{cost.limit_ms:.2f} (1)",
                f"{cost.in_memory_ms:.2f} ({cost.in_memory_ratio:.2f})",
                f"{cost.stored_ms:.2f} ({cost.stored_ratio:.2f})",
                *(f"{cost.peers_ms[name]:.2f} ({cost.peers_ms[name] / cost.limit_ms:.2f})" for name in peers),
            )
            for cost in costs
        ],
    )
    show.print_table(
        "Steps of the `stored` column, CPU ms per frame",
        ["video", *STEPS],
        [(cost.video, *(f"{cost.steps_ms[step]:.3f}" for step in STEPS)) for cost in costs],
    )


if __name__ == "__main__":
    run_script(main)
