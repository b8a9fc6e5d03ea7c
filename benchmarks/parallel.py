"""Wall time of both stages with one worker and with one per core, and whether both write the same bytes.

There are two loads: all videos, and the largest of them alone, whose GOPs the workers share. For the largest video,
the benchmark also measures the most that extraction while encoding could gain: both stages run at the same time with
one worker each, and extraction reads a copy that was encoded before.
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

from benchmarks.shared import measured, new_parser, run_script, stage_settings
from cope_cli.cache.store import Cache
from cope_cli.cli import show
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.errors import CopeError
from cope_cli.stages.batch import Batch, default_workers
from cope_cli.stages.encode import encode_batch, encode_video
from cope_cli.stages.extract import extract_batch, extract_video
from cope_cli.types import OnProgress


@dataclass(frozen=True, kw_only=True)
class ParallelRecord:
    """Wall seconds of one load.

    Attributes:
        load: which videos were processed.
        num_frames: frames of the encoded streams.
        workers: processes at a time.
        encode_seconds: encoding, including the start of the processes.
        extract_seconds: extraction.
        digest: SHA-256 over the path and bytes of every file written, except manifests.
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
        overlapped_seconds: both at the same time; no overlap of the two can be faster.
    """

    load: str
    after_seconds: float
    overlapped_seconds: float


def measure_parallel(
    videos: Sequence[Path],
    encode: EncodeConfig,
    extract: ExtractConfig,
    *,
    on_progress: OnProgress = lambda done, total: None,
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print what more workers gain."""
    description = "Measure the wall time of encoding and extraction with one worker and with one per core."
    options = new_parser("parallel", description, "fusion", "grid", "short-side").parse_args(arguments)
    videos, encode, extract = stage_settings(options)
    records, overlap = measured("runs", lambda report: measure_parallel(videos, encode, extract, on_progress=report))
    if options.json:
        show.print_json({"loads": records, "overlap": overlap})
        return
    alone = {record.load: record for record in records if record.workers == 1}
    show.print_table(
        "Wall seconds; in brackets the throughput relative to one worker",
        ["load", "frames", "workers", "encode", "extract", "both", "bytes written"],
        [
            (
                r.load,
                str(r.num_frames),
                str(r.workers),
                f"{r.encode_seconds:.1f} ({(one := alone[r.load]).encode_seconds / r.encode_seconds:.2f})",
                f"{r.extract_seconds:.1f} ({one.extract_seconds / r.extract_seconds:.2f})",
                f"{r.encode_seconds + r.extract_seconds:.1f} "
                f"({(one.encode_seconds + one.extract_seconds) / (r.encode_seconds + r.extract_seconds):.2f})",
                "the same" if r.digest == one.digest else "DIFFERENT",
            )
            for r in records
        ],
    )
    show.print_table(
        "Extraction while encoding, one process each: the most that overlapping the stages could gain",
        ["video", "one after the other", "at the same time", "ratio"],
        [
            (
                overlap.load,
                f"{overlap.after_seconds:.1f} s",
                f"{overlap.overlapped_seconds:.1f} s",
                f"{overlap.overlapped_seconds / overlap.after_seconds:.2f}",
            )
        ],
    )


if __name__ == "__main__":
    run_script(main)
