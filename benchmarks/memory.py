"""Peak memory of a worker on a long video.

The packets of a video are repeated up to the length wanted. Then each stage processes it in a separate process, whose
largest resident set is read at its end. That includes Python and its libraries: "at start" is a worker that has
imported them and processed nothing.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import av

from benchmarks.shared import measured, new_parser, run_script, stage_settings
from cope_cli.cache.store import Cache
from cope_cli.cli import show
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.errors import CopeError
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.stages.frames import FramesRequest
from cope_cli.types import OnProgress


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
        extract_bytes: extraction that also stores RGB frames of 384 px for K = 4.
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
    on_progress: OnProgress = lambda done, total: None,
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


def repeat_video(video: Path, target: Path, seconds: float) -> None:
    """Write the packets of a video over and over, without decoding, until the result is at least `seconds` long."""
    with av.open(str(target), "w") as output:
        stream = None
        shift = 0
        while True:
            with av.open(str(video)) as source:
                track = source.streams.video[0]
                stream = stream or output.add_stream_from_template(track)
                packets = [packet for packet in source.demux(track) if packet.size and packet.dts is not None]
                assert track.time_base is not None
                times = [packet.pts for packet in packets if packet.pts is not None]
                step = round(1 / (track.average_rate or 25) / track.time_base)
                for packet in packets:
                    packet.pts = (packet.pts or 0) + shift
                    packet.dts = (packet.dts or 0) + shift
                    packet.stream = stream
                    output.mux(packet)
                shift += max(times) - min(times) + step
                if shift * track.time_base >= seconds:
                    return


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
    """Stand for a worker before its first video: everything is imported."""


def _encode(video: Path, root: Path, encode: EncodeConfig, extract: ExtractConfig) -> None:
    encode_video(video, Cache(root), encode)


def _extract(video: Path, root: Path, encode: EncodeConfig, extract: ExtractConfig) -> None:
    cache = Cache(root)
    (entry,) = cache.encoded_entries()
    extract_video(entry.name, cache, extract, frames=FramesRequest())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the peak memory of both stages."""
    description = "Measure the peak memory of a worker on a long video."
    parser = new_parser("memory", description, "fusion", "grid", "short-side")
    parser.add_argument("--hours", type=float, default=2.0, help="length to repeat each video to (default: 2)")
    options = parser.parse_args(arguments)
    videos, encode, extract = stage_settings(options)

    def measure(report: OnProgress) -> list[MemoryRecord]:
        return [measure_memory(video, options.hours * 3600, encode, extract, on_progress=report) for video in videos]

    records = measured("stages", measure)
    if options.json:
        show.print_json(records)
        return
    show.print_table(
        f"Peak resident memory of a worker, grid {extract.grid_px}, s = {extract.fusion_frames}",
        ["video", "length", "size", "at start", "encode", "extract"],
        [
            (
                r.video,
                f"{r.seconds / 3600:.2f} h",
                f"{r.width_px}x{r.height_px}",
                show.as_bytes(r.start_bytes),
                show.as_bytes(r.encode_bytes),
                show.as_bytes(r.extract_bytes),
            )
            for r in records
        ],
    )


if __name__ == "__main__":
    run_script(main)
