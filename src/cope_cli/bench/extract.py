"""`cope bench --extract`: what extraction costs beside the limit, bare decoding with vectors exported as arrays.

Each video is encoded once (`--short-side 0` unless told otherwise) into a temporary cache; then the limit, extraction
in memory and extraction with storage run in turn, several rounds, in one process. CPU seconds of all its threads.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cope_cli.cache.store import Cache
from cope_cli.codec.gop import slots_of
from cope_cli.codec.primitives import extract_slots
from cope_cli.codec.stream import read_frames, read_gop_spans
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video


@dataclass(frozen=True, kw_only=True)
class ExtractCost:
    """CPU milliseconds per decoded frame, medians over the rounds, and ratios to the limit.

    Attributes:
        video: the source file's name.
        width_px: encoded width.
        height_px: encoded height.
        num_frames: frames decoded per round.
        grid_px: grid side G.
        fusion_frames: fusion window s.
        limit_ms: PyAV decode with motion vectors as arrays.
        in_memory_ms: extraction, nothing stored.
        stored_ms: extraction with motion, residual and grid frames written to the cache, RGB frames not.
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
    variants: dict[str, Callable[[], object]] = {
        "limit": lambda: deque(read_frames(entry.video), maxlen=0),
        "in_memory": lambda: deque(extract_slots(entry.video, slots, extract.grid_px), maxlen=0),
        "stored": lambda: extract_video(record.name, cache, extract, force=True),
    }
    variants["stored"]()  # compiles the kernels
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
    )
