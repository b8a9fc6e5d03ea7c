"""What the kill sweep kills: commands on caches in several states, over short videos and a long one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

SHORT_SECONDS = 3.0
LONG_SECONDS = 230.0  # above 6000 frames: both stages share it out among workers
LONG_SIZE = (64, 48)
BIT_EXACT = {"fflags": "+bitexact"}

Command = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Commands (without --cache) that run one after the other on a copy of a start cache.

    Attributes:
        name: shown in the table.
        start: commands that fill the start cache, undisturbed.
        commands: what is killed and then run again.
    """

    name: str
    start: tuple[Command, ...]
    commands: tuple[Command, ...]

    @property
    def is_forced(self) -> bool:
        """Whether a rerun of the same commands does finished work again."""
        return any("--force" in command for command in self.commands)


def scenarios(short: Sequence[Path], long: Path) -> list[Scenario]:
    """Return all scenarios, for a few short videos and a long one."""
    size = ("--short-side", "96", "--gop", "30")
    encode: Command = ("encode", *map(str, short), *size)
    encode_long: Command = ("encode", str(long))
    extract: Command = ("extract", "--grid", "64", "--fusion", "10", "--frame-size", "64", "--store-frames", "1")
    extract_long: Command = ("extract", "--grid", "32", "--fusion", "30", "--store-frames", "none")
    more: Command = (*extract[:-1], "all")
    one, two, force = ("--workers", "1"), ("--workers", "2"), ("--force",)
    full = (encode + two, extract + two)
    return [
        Scenario(name="encode", start=(), commands=(encode + two,)),
        Scenario(name="encode, 1 worker", start=(), commands=(encode + one,)),
        Scenario(name="encode long", start=(), commands=(encode_long + two,)),
        Scenario(name="encode --force", start=full, commands=(encode + two + force,)),
        Scenario(name="extract", start=full[:1], commands=(extract + two,)),
        Scenario(name="extract long", start=(encode_long + two,), commands=(extract_long + two,)),
        Scenario(name="extract --force", start=full, commands=(extract + two + force,)),
        Scenario(name="more frames", start=full, commands=(more + two,)),
        Scenario(name="encode, extract", start=(), commands=full),
        Scenario(name="encode, extract long", start=(), commands=(encode_long + two, extract_long + two)),
    ]


def repeat(source: Path, target: Path, seconds: float) -> Path:
    """Copy a video's packets, over and over, until the file is `seconds` long; the same packets give the same file."""
    import av

    with av.open(str(target), "w", options=BIT_EXACT) as written:
        out, shift = None, 0
        while True:
            with av.open(str(source)) as read:
                stream = read.streams.video[0]
                out = out or written.add_stream_from_template(stream)
                end = shift
                for packet in read.demux(stream):
                    if packet.dts is None or packet.pts is None or stream.time_base is None:
                        continue
                    packet.dts, packet.pts = packet.dts + shift, packet.pts + shift
                    if packet.dts * stream.time_base >= seconds:
                        return target
                    end = max(end, packet.pts + (packet.duration or 1))
                    packet.stream = out
                    written.mux(packet)
                if end == shift:
                    raise ValueError(f"{source}: no packet with a time, cannot be repeated")
                shift = end


def shrink(source: Path, target: Path, num_frames: int = 60) -> Path:
    """Encode a video's first frames in a small size, with an I-frame every 30."""
    import av

    with av.open(str(source)) as read, av.open(str(target), "w", options=BIT_EXACT) as written:
        stream = written.add_stream("mpeg4", rate=30)
        (stream.width, stream.height), stream.pix_fmt, stream.thread_count = LONG_SIZE, "yuv420p", 1
        stream.codec_context.gop_size = 30
        for index, frame in zip(range(num_frames), read.decode(video=0), strict=False):
            small = frame.reformat(*LONG_SIZE, format="yuv420p")
            small.pts, small.time_base, small.pict_type = index, Fraction(1, 30), av.video.frame.PictureType.NONE
            written.mux(stream.encode(small))
        written.mux(stream.encode(None))
    return target
