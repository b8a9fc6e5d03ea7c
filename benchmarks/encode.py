"""The cost of encoding, part by part, compared with the ffmpeg program with the same options.

Times are CPU seconds of one thread. Three variants run: decoding alone, decoding with the filters (rate and size), and
the whole; their differences are the cost of each part.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.shared import measured, new_parser, run_script, videos_in
from cope_cli.cli import show
from cope_cli.codec.mpeg4.encoder import encoder_options
from cope_cli.codec.mpeg4.transcode import filtered, transcode
from cope_cli.codec.source import open_source
from cope_cli.config import EncodeConfig
from cope_cli.types import OnProgress


@dataclass(frozen=True, kw_only=True)
class EncodeCost:
    """CPU milliseconds per frame of the encoded stream, medians over the rounds.

    Attributes:
        video: the source file's name.
        short_side_px: the limit on its shorter side; 0 is the source's size.
        width_px: encoded width.
        height_px: encoded height.
        num_frames: frames of the encoded stream.
        size_bytes: size of the encoded file.
        decode_ms: decoding the source.
        filter_ms: changing rate, size and pixel format.
        encode_ms: encoding and writing.
        program_ms: the whole by the ffmpeg program; None if it is not installed.
        program_version: version of that program.
    """

    video: str
    short_side_px: int
    width_px: int
    height_px: int
    num_frames: int
    size_bytes: int
    decode_ms: float
    filter_ms: float
    encode_ms: float
    program_ms: float | None
    program_version: str

    @property
    def total_ms(self) -> float:
        """Decoding, filters and encoding."""
        return self.decode_ms + self.filter_ms + self.encode_ms


def measure_encode(
    videos: Sequence[Path],
    config: EncodeConfig,
    short_sides_px: Sequence[int],
    *,
    rounds: int = 5,
    on_progress: OnProgress = lambda done, total: None,
) -> list[EncodeCost]:
    """Measure every video at every size.

    Args:
        videos: source files.
        config: rate, GOP and quality.
        short_sides_px: sizes to encode at; 0 is the source's.
        rounds: runs of each variant, interleaved; the medians are reported.
        on_progress: called with (variants done, variants in all).
    """
    costs: list[EncodeCost] = []
    with tempfile.TemporaryDirectory(prefix="cope-bench-") as folder:
        for video in videos:
            for short_side in short_sides_px:
                on_progress(len(costs), len(videos) * len(short_sides_px))
                sized = EncodeConfig(**config.to_dict() | {"short_side_px": short_side})
                costs.append(_measure(video, Path(folder), sized, rounds))
    return costs


def _measure(video: Path, folder: Path, config: EncodeConfig, rounds: int) -> EncodeCost:
    target = folder / "cope.mp4"
    info = transcode(video, target, config)
    program = shutil.which("ffmpeg")
    command = [str(program), *_arguments(video, folder / "program.mp4", config, info.size.width, info.size.height)]
    variants: dict[str, Callable[[], float]] = {
        "decode": lambda: _cpu(lambda: _decode(video, config)),
        "filter": lambda: _cpu(lambda: deque(filtered(video, config), maxlen=0)),
        "whole": lambda: _cpu(lambda: transcode(video, target, config)),
    }
    if program:
        variants["program"] = lambda: _cpu_of_program(command)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            seconds[name].append(run())
    ms = {name: statistics.median(values) / info.num_frames * 1000 for name, values in seconds.items()}
    return EncodeCost(
        video=video.name,
        short_side_px=config.short_side_px,
        width_px=info.size.width,
        height_px=info.size.height,
        num_frames=info.num_frames,
        size_bytes=target.stat().st_size,
        decode_ms=ms["decode"],
        filter_ms=ms["filter"] - ms["decode"],
        encode_ms=ms["whole"] - ms["filter"],
        program_ms=ms.get("program"),
        program_version=_version(program) if program else "",
    )


def _arguments(source: Path, target: Path, config: EncodeConfig, width: int, height: int) -> list[str]:
    """Return the ffmpeg program's arguments for the same work on one thread."""
    filters = f"fps={config.fps}:round=near,scale={width}:{height}:flags=bicubic+accurate_rnd+bitexact,format=yuv420p"
    before = ["-nostdin", "-v", "error", "-y", "-threads", "1", "-filter_threads", "1", "-i", str(source)]
    codec = [
        "-map",
        "0:v:0",
        "-vf",
        filters,
        "-c:v",
        "mpeg4",
        "-threads",
        "1",
        "-bf",
        "0",
        "-g",
        str(config.gop_frames),
    ]
    options = [word for name, value in encoder_options(config).items() for word in (f"-{name}", value)]
    return [*before, *codec, *options, "-f", "mp4", str(target)]


def _decode(video: Path, config: EncodeConfig) -> None:
    with open_source(video, config.stream) as source:
        deque(source.frames(), maxlen=0)


def _cpu(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _cpu_of_program(command: Sequence[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _version(program: str) -> str:
    return subprocess.run([program, "-version"], check=True, capture_output=True, text=True).stdout.split()[2]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print what encoding costs."""
    description = "Measure the CPU time of encoding, compared with the ffmpeg program."
    parser = new_parser("encode", description, "rounds")
    sizes_help = "sizes to encode at; 0 keeps the source's (default: 0 384 224)"
    parser.add_argument("--short-sides", type=int, nargs="+", default=[0, 384, 224], metavar="PX", help=sizes_help)
    options = parser.parse_args(arguments)
    videos, sizes, rounds = videos_in(options.videos), options.short_sides, options.rounds
    costs = measured(
        "variants",
        lambda report: measure_encode(videos, EncodeConfig(), sizes, rounds=rounds, on_progress=report),
    )
    if options.json:
        show.print_json(costs)
        return
    versions = ", ".join(sorted({cost.program_version for cost in costs} - {""})) or "not installed"
    show.print_table(
        f"CPU ms per frame, medians of {rounds} rounds; ratio to the ffmpeg program ({versions})",
        ["video", "short side", "size", "frames", "MB", "decode", "filters", "encode", "all", "ffmpeg", "ratio"],
        [
            (
                cost.video,
                str(cost.short_side_px),
                f"{cost.width_px}x{cost.height_px}",
                str(cost.num_frames),
                f"{cost.size_bytes / 1e6:.1f}",
                f"{cost.decode_ms:.2f}",
                f"{cost.filter_ms:.2f}",
                f"{cost.encode_ms:.2f}",
                f"{cost.total_ms:.2f}",
                f"{cost.program_ms:.2f}" if cost.program_ms else "-",
                f"{cost.total_ms / cost.program_ms:.2f}" if cost.program_ms else "-",
            )
            for cost in costs
        ],
    )


if __name__ == "__main__":
    run_script(main)
