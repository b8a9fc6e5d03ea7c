"""What the fuzzer damages: pieces of real videos, small encodes of every kind, and streams that change their size.

Covered: the containers and codecs of the sources, and those of ENCODINGS that this FFmpeg can write.
Not covered: sound, subtitles, encrypted files.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEALTHY = "a_healthy"  # sorts first: its time, not a mutant's, holds the start of the workers
CUT_SECONDS = 1.5
#: An original above this is cut down only.
ORIGINAL_BYTES = 8 * 2**20
ORIGINALS_SHARE = 0.1
LONG_FRAMES = 1250

#: (encoder, suffix): small encodes to damage, as far as this FFmpeg has the encoder.
ENCODINGS = (
    *(("libx264", suffix) for suffix in ("mp4", "mkv", "ts", "mov")),
    *(("mpeg4", suffix) for suffix in ("mp4", "mkv", "avi", "ts")),
    *(("mpeg2video", suffix) for suffix in ("ts", "mpg")),
    *(("ffv1", suffix) for suffix in ("mkv", "avi")),
    *(("libvpx-vp9", "webm"), ("libx265", "mp4"), ("mjpeg", "avi"), ("flv", "flv"), ("wmv2", "wmv")),
)
#: (encoder, muxer, suffix): streams whose parts can be joined, so that the picture size changes half-way.
RAW_STREAMS = (
    ("mpeg4", "m4v", "m4v"),
    ("libx264", "h264", "h264"),
    ("mpeg2video", "mpeg2video", "mpg"),
    ("libx264", "mpegts", "ts"),
)
SIZES = ((96, 64), (64, 80), (32, 32))
LONG_ENCODINGS = (("libx264", "mp4"), ("libx264", "ts"), ("mpeg4", "mkv"))
BIT_EXACT = {"fflags": "+bitexact"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A whole video that mutants are made from."""

    name: str
    data: bytes

    @property
    def suffix(self) -> str:
        """The name's suffix, without its dot."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What mutants are made from: short videos, some originals, joined streams of changing size, long small videos."""

    short: tuple[Source, ...]
    originals: tuple[Source, ...]
    resized: tuple[Source, ...]
    long: tuple[Source, ...]
    healthy: Source

    @property
    def sha256(self) -> str:
        """Digest of every source."""
        sources = (*self.short, *self.originals, *self.resized, *self.long, self.healthy)
        return hashlib.sha256(b"".join(hashlib.sha256(source.data).digest() for source in sources)).hexdigest()

    def pick(self, rng: random.Random) -> Source:
        """Return a short video, or now and then an original."""
        return rng.choice(self.originals if self.originals and rng.random() < ORIGINALS_SHARE else self.short)


def make_corpus(paths: Sequence[Path], folder: Path) -> Corpus:
    """Cut the videos down, encode small ones, and keep them in `folder`; a folder that is complete is used as it is.

    Args:
        paths: videos, and folders of them; what FFmpeg cannot open is passed over.
        folder: where to.
    """
    files = sorted({file for path in paths for file in ([path] if path.is_file() else path.rglob("*.*"))})
    marker = folder / "complete"
    if not marker.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for index, file in enumerate(files):
            with contextlib.suppress(OSError, ValueError, LookupError):
                cut(file, folder / f"cut-{index:02d}{file.suffix.lower()}", CUT_SECONDS)
        write_small_encodes(folder)
        marker.touch()
    cuts = {path.stem for path in folder.glob("cut-*")}
    originals = tuple(
        Source(name=file.name, data=file.read_bytes())
        for index, file in enumerate(files)
        if f"cut-{index:02d}" in cuts and file.stat().st_size <= ORIGINAL_BYTES
    )
    short = (*_sources(folder, "cut-*"), *_sources(folder, "made-*"))
    (healthy,) = _sources(folder, f"{HEALTHY}.*")
    return Corpus(
        short=short,
        originals=originals,
        resized=_resized(_sources(folder, "raw-*")),
        long=_sources(folder, "long-*"),
        healthy=healthy,
    )


def _sources(folder: Path, pattern: str) -> tuple[Source, ...]:
    found = sorted(path for path in folder.glob(pattern) if path.stat().st_size)
    return tuple(Source(name=path.name, data=path.read_bytes()) for path in found)


def _resized(raw: Iterable[Source]) -> tuple[Source, ...]:
    """Join the streams of one encoder in all sizes, one after the other."""
    groups: dict[str, list[Source]] = defaultdict(list)
    for source in raw:
        groups[source.name.rsplit("-", 1)[0]].append(source)
    return tuple(
        Source(name=f"{name}.{parts[0].suffix}", data=b"".join(part.data for part in parts))
        for name, parts in sorted(groups.items())
    )


def cut(source: Path, target: Path, seconds: float) -> None:
    """Copy the packets of a video's first seconds into a file of the same kind; one that fails leaves nothing."""
    import av

    try:
        with av.open(str(source)) as read, av.open(str(target), "w", options=BIT_EXACT) as written:
            stream = read.streams.video[0]
            out = written.add_stream_from_template(stream)
            first = None
            for packet in read.demux(stream):
                if packet.dts is None or stream.time_base is None:
                    continue
                first = packet.dts if first is None else first
                if (packet.dts - first) * stream.time_base > seconds:
                    break
                packet.stream = out
                written.mux(packet)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def write_small_encodes(folder: Path) -> None:
    """Write the healthy neighbour, an encode of each kind, and raw streams in several sizes."""
    encode(folder / f"{HEALTHY}.mp4", "mpeg4", SIZES[0])
    for encoder, suffix in ENCODINGS:
        _encode_if_known(folder / f"made-{encoder}.{suffix}", encoder, SIZES[0])
    for encoder, muxer, suffix in RAW_STREAMS:
        for number, size in enumerate(SIZES):
            _encode_if_known(folder / f"raw-{encoder}-{muxer}-{number}.{suffix}", encoder, size, muxer=muxer)
    for encoder, suffix in LONG_ENCODINGS:
        path = folder / f"long-{encoder}.{suffix}"
        _encode_if_known(path, encoder, SIZES[2], num_frames=LONG_FRAMES, gop_frames=50)


def _encode_if_known(path: Path, encoder: str, size: tuple[int, int], **settings: Any) -> None:
    import av

    if encoder in av.codecs_available:
        encode(path, encoder, size, **settings)


def encode(
    path: Path,
    encoder: str,
    size: tuple[int, int],
    *,
    muxer: str | None = None,
    num_frames: int = 24,
    gop_frames: int = 8,
) -> None:
    """Encode moving stripes; equal arguments give equal bytes.

    Args:
        path: where to.
        encoder: FFmpeg's name.
        size: width and height in pixels.
        muxer: FFmpeg's name; by the suffix if None.
        num_frames: frames at 25 per second.
        gop_frames: frames from one I-frame to the next.
    """
    import av
    import numpy as np

    width, height = size
    pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
    # In pictures that are no whole number of its usual 64-pixel blocks, x265 looks at memory beyond their edge.
    x265 = "log-level=none:pools=none:frame-threads=1:ctu=16"
    # With AVX-512, x264 decides now and then otherwise about the same picture.
    options = {"flags": "+bitexact", "x264-params": "asm=SSE2", "x265-params": x265, "preset": "veryfast"}
    with av.open(str(path), "w", format=muxer, options=BIT_EXACT) as container:
        stream = container.add_stream(encoder, rate=25, options=options if encoder.startswith("libx") else {})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = width, height, pix_fmt, 1
        stream.codec_context.gop_size = gop_frames
        ys, xs = np.mgrid[:height, :width]
        for index in range(num_frames):
            stripes = np.stack([(xs + 3 * index) * 5, (ys + index) * 7, (xs + ys) * 3], axis=-1) % 256
            frame = av.VideoFrame.from_ndarray(stripes.astype(np.uint8), format="rgb24").reformat(format=pix_fmt)
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
