"""`cope bench --memory`: the most memory a worker takes for a long video.

The video given is repeated, packet by packet, to the length wanted; then each stage runs on it in a process of its
own, whose largest resident set is read when it ends. The process holds all of Python and its libraries too: "at start"
is a worker that has imported them and worked on nothing.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from cope_cli.cache.store import Cache
from cope_cli.codec.clips import repeat_video
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.errors import CopeError
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.stages.frames import FramesRequest


@dataclass(frozen=True, kw_only=True)
class MemoryRecord:
    """Peak resident memory of one worker, in bytes.

    Attributes:
        video: the source file's name.
        seconds: length of the encoded stream.
        width_px: encoded width.
        height_px: encoded height.
        start_bytes: before any work.
        encode_bytes: encoding.
        extract_bytes: extracting, RGB frames of K = 4 at 384 px stored as well.
    """

    video: str
    seconds: float
    width_px: int
    height_px: int
    start_bytes: int
    encode_bytes: int
    extract_bytes: int


def measure_memory(
    video: Path,
    seconds: float,
    encode: EncodeConfig,
    extract: ExtractConfig,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> MemoryRecord:
    """Encode and extract a video that is repeated to a length.

    Args:
        video: a source file whose packets can be repeated (a keyframe first).
        seconds: length to reach.
        encode: how to encode.
        extract: what to extract.
        on_progress: called with (stages done, stages in all).

    Raises:
        CopeError: a stage failed.
    """
    with tempfile.TemporaryDirectory(prefix="cope-bench-") as folder:
        long = Path(folder) / f"long{video.suffix}"
        repeat_video(video, long, seconds)
        root = Path(folder) / "cache"
        start_bytes = _peak(_nothing, long, root, encode, extract)
        on_progress(1, 3)
        encode_bytes = _peak(_encode, long, root, encode, extract)
        on_progress(2, 3)
        extract_bytes = _peak(_extract, long, root, encode, extract)
        (entry,) = Cache(root).encoded_entries()
        info = entry.manifest.info
    return MemoryRecord(
        video=video.name,
        seconds=info["num_frames"] / encode.fps,
        width_px=info["width_px"],
        height_px=info["height_px"],
        start_bytes=start_bytes,
        encode_bytes=encode_bytes,
        extract_bytes=extract_bytes,
    )


def _peak(work: Callable[..., None], *arguments: object) -> int:
    """Run a function in a process of its own and return its largest resident set, in bytes."""
    context = multiprocessing.get_context("spawn")
    answers, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(sender, work, arguments))
    process.start()
    sender.close()
    try:
        answer = answers.recv()
    except EOFError:
        answer = "it died"
    process.join()
    if not isinstance(answer, int):
        raise CopeError(f"a stage of the benchmark failed: {answer}")
    return answer


def _report(sender: Connection, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    try:
        work(*arguments)
    except CopeError as error:
        sender.send(error.message)
    else:
        sender.send(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _nothing(video: Path, root: Path, encode: EncodeConfig, extract: ExtractConfig) -> None:
    """What a worker is before its first video: everything imported."""


def _encode(video: Path, root: Path, encode: EncodeConfig, extract: ExtractConfig) -> None:
    encode_video(video, Cache(root), encode)


def _extract(video: Path, root: Path, encode: EncodeConfig, extract: ExtractConfig) -> None:
    cache = Cache(root)
    (entry,) = cache.encoded_entries()
    extract_video(entry.name, cache, extract, frames=FramesRequest())
