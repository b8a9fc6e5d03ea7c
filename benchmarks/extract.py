"""`cope bench --extract`: what extraction costs beside the limit, bare decoding with vectors exported as arrays.

Each video is encoded once (`--short-side 0` unless told otherwise) into a temporary cache; then the limit, extraction
in memory, extraction with storage, and once more with storage and a stopwatch inside run in turn, several rounds, in
one process. CPU seconds of all its threads. Tools that read motion vectors too run beside them if they are installed.
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

from cope_cli.cache.store import Cache
from cope_cli.codec.gop import slots_of
from cope_cli.codec.mpeg4.stream import decode_with_vectors, read_gop_spans
from cope_cli.codec.primitives import extract_slots
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video

STEPS = ("decode", "trace", "convert", "residual", "compress", "write")
#: Function -> the step its time counts for. The rest of making slots is decoding, the rest of all is writing.
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
        limit_ms: PyAV decode with motion vectors as arrays.
        in_memory_ms: extraction, nothing stored.
        stored_ms: extraction with motion, residual and grid frames written to the cache, RGB frames not.
        steps_ms: of `stored_ms`, by step; measured in runs of their own.
        peers_ms: other tools, by name; those that are installed.
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
    on_progress: Callable[[int, int], None] = lambda done, total: None,
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
