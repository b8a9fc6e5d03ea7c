"""`cope bench --parallel`: wall time of both stages with one worker and with more, and whether the bytes are the same.

Two loads: the videos given, as many files as there are, and the longest of them alone, which is shared out by GOPs.
Then, for the same long video and one worker a stage, what it would gain at most if its extraction overlapped its
encoding: both stages run at the same time, extraction on a copy that was encoded before.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cope_cli.cache.store import Cache
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.errors import CopeError
from cope_cli.stages.batch import Batch, default_workers
from cope_cli.stages.encode import encode_batch, encode_video
from cope_cli.stages.extract import extract_batch, extract_video


@dataclass(frozen=True, kw_only=True)
class ParallelRecord:
    """Wall seconds of one load.

    Attributes:
        load: what was worked on.
        num_frames: frames of the encoded streams.
        workers: processes at a time.
        encode_seconds: of `cope encode`, starting the processes included.
        extract_seconds: of `cope extract`.
        digest: SHA-256 over every file written but the manifests, with its path.
    """

    load: str
    num_frames: int
    workers: int
    encode_seconds: float
    extract_seconds: float
    digest: str


@dataclass(frozen=True, kw_only=True)
class OverlapRecord:
    """Wall seconds of both stages of one video, one process each.

    Attributes:
        load: the video.
        after_seconds: extraction after encoding.
        overlapped_seconds: both at the same time: what no overlap of the two can beat.
    """

    load: str
    after_seconds: float
    overlapped_seconds: float


def measure_parallel(
    videos: Sequence[Path],
    encode: EncodeConfig,
    extract: ExtractConfig,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[ParallelRecord], OverlapRecord]:
    """Run both stages on both loads, with one worker and with one per core.

    Args:
        videos: source files.
        encode: how to encode.
        extract: what to extract.
        on_progress: called with (runs done, runs in all).

    Raises:
        CopeError: a video failed.
    """
    longest = max(videos, key=lambda video: video.stat().st_size)
    loads = {f"{len(videos)} files": list(videos), longest.name: [longest]}
    records: list[ParallelRecord] = []
    for load, paths in loads.items():
        for workers in (1, default_workers()):
            on_progress(len(records), 2 * len(loads) + 1)
            records.append(_measure(load, paths, encode, extract, workers))
    on_progress(len(records), len(records) + 1)
    return records, _overlap(longest, encode, extract)


def _measure(
    load: str, paths: Sequence[Path], encode: EncodeConfig, extract: ExtractConfig, workers: int
) -> ParallelRecord:
    with tempfile.TemporaryDirectory(prefix="cope-bench-") as folder:
        root = Path(folder)
        start = time.perf_counter()
        _run(encode_batch(paths, root, encode, workers=workers))
        middle = time.perf_counter()
        _run(extract_batch([], root, extract, workers=workers))
        end = time.perf_counter()
        return ParallelRecord(
            load=load,
            num_frames=sum(entry.manifest.info["num_frames"] for entry in Cache(root).encoded_entries()),
            workers=workers,
            encode_seconds=middle - start,
            extract_seconds=end - middle,
            digest=_digest(root),
        )


def _run(batch: Batch[Any]) -> None:
    for outcome in batch.run():
        if outcome.error is not None:
            raise outcome.error


def _digest(root: Path) -> str:
    """Hash the cache's contents; manifests name the source's path and times, so they are left out."""
    total = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        if path.suffix == ".mp4" or (path.name != "manifest.json" and path.parent.name != "encoded"):
            total.update(path.relative_to(root).as_posix().encode())
            total.update(path.read_bytes())
    return total.hexdigest()


def _overlap(video: Path, encode: EncodeConfig, extract: ExtractConfig) -> OverlapRecord:
    with tempfile.TemporaryDirectory(prefix="cope-bench-") as folder:
        cache = Cache(Path(folder))
        name = encode_video(video, cache, encode).name
        start = time.perf_counter()
        _in_processes((_encode, video, folder, encode))
        _in_processes((_extract, name, folder, extract))
        middle = time.perf_counter()
        _in_processes((_encode, video, folder, encode), (_extract, name, folder, extract))
        end = time.perf_counter()
    return OverlapRecord(load=video.name, after_seconds=middle - start, overlapped_seconds=end - middle)


def _in_processes(*calls: tuple[Callable[..., None], object, str, object]) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=function, args=arguments) for function, *arguments in calls]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise CopeError(f"a process of the benchmark ended with {process.exitcode}")


def _encode(video: Path, folder: str, config: EncodeConfig) -> None:
    with tempfile.TemporaryDirectory(prefix="cope-bench-", dir=folder) as own:
        encode_video(video, Cache(Path(own)), config)


def _extract(name: str, folder: str, config: ExtractConfig) -> None:
    extract_video(name, Cache(Path(folder)), config, force=True)
