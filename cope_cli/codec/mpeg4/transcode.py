"""Re-encoding a source video to the stream that `cope extract` reads (paper 4.1; DESIGN stage 1).

Covered: whatever FFmpeg decodes: any frame rate, VFR, rotation, odd sizes, 10-bit, size changes half-way.
Not covered: audio and subtitles (dropped), transparency (dropped), HDR tone mapping (matrix conversion only).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import cast

import av

from cope_cli.codec.fusion import FrameSize
from cope_cli.codec.mpeg4.encoder import Encoder
from cope_cli.codec.mpeg4.split import SourcePart
from cope_cli.codec.orientation import Orientation
from cope_cli.codec.source import Source, open_source
from cope_cli.config import EncodeConfig
from cope_cli.errors import CopeError, VideoError
from cope_cli.types import OnProgress


@dataclass(frozen=True, kw_only=True)
class TranscodeInfo:
    """What was read and written.

    Attributes:
        source_codec: FFmpeg's name of the source's codec.
        source_size: picture size after rotation, before scaling.
        source_start_seconds: the source's time of the encoded stream's first frame.
        num_source_frames: frames decoded.
        rotation_degrees: rotation that was applied, counter-clockwise.
        num_size_changes: how often the source changed its picture size; all frames were scaled to the first's.
        size: the encoded picture size.
        num_frames: frames written.
    """

    source_codec: str
    source_size: FrameSize
    source_start_seconds: float
    num_source_frames: int
    rotation_degrees: int
    num_size_changes: int
    size: FrameSize
    num_frames: int


def fit_short_side(size: FrameSize, short_side_px: int) -> FrameSize:
    """Return the encoded size: short side at most `short_side_px` (0: any), never enlarged, both sides even.

    Args:
        size: the source's picture size, at least 2 x 2.
        short_side_px: limit on the shorter side, or 0.
    """
    short = min(size.width, size.height)
    target = short if short_side_px == 0 else min(short, short_side_px)
    scaled = (max(2, round(Fraction(side * target, short) / 2) * 2) for side in (size.width, size.height))
    width, height = (
        min(new, max(2, old - old % 2)) for new, old in zip(scaled, (size.width, size.height), strict=True)
    )
    return FrameSize(width=width, height=height)


@dataclass(frozen=True, kw_only=True)
class PartInfo:
    """What a part of a video gave.

    Attributes:
        info: of this part's frames alone; `num_size_changes` is 0.
        first_digest: of the first picture that was encoded.
        next_digest: of the picture that comes after the last one; "" at the end of the video.
    """

    info: TranscodeInfo
    first_digest: str
    next_digest: str


def transcode(
    source: Path, target: Path, config: EncodeConfig, *, on_progress: OnProgress = lambda done, total: None
) -> TranscodeInfo:
    """Re-encode one video to MPEG-4 Part 2 in mp4: constant rate, fixed GOP, I- and P-frames only.

    Args:
        source: any file FFmpeg can decode.
        target: file to write; the caller gives it its final name.
        config: rate, GOP, size, quality, stream.
        on_progress: called with (seconds done, seconds in all or 0 if unknown).

    Raises:
        VideoError: the source cannot be opened or decoded, or holds no frame.
        StorageError: the target cannot be written.
    """
    with open_source(source, config.stream) as video, contextlib.closing(Encoder(target, config)) as encoder:
        graph: _Graph | None = None
        with _decoding(video):
            for frame in video.frames():
                graph = graph or _Graph(frame, video, config)
                for picture in graph.push(frame):
                    encoder.write(picture)
                on_progress(video.seconds, video.duration_seconds)
        if graph is None:
            raise VideoError(f"{source}: not one frame could be decoded", "The file is damaged or truncated.")
        for picture in graph.finish():
            encoder.write(picture)
        return _info(video, graph, encoder)


def filtered(source: Path, config: EncodeConfig) -> Iterator[av.VideoFrame]:
    """Yield the pictures that `transcode` would encode."""
    with open_source(source, config.stream) as video:
        graph: _Graph | None = None
        for frame in video.frames():
            graph = graph or _Graph(frame, video, config)
            yield from graph.push(frame)
        if graph is not None:
            yield from graph.finish()


def transcode_part(
    source: Path, target: Path, config: EncodeConfig, part: SourcePart, *, on_progress: OnProgress
) -> PartInfo:
    """Re-encode part of a video: the same GOPs that `transcode` would write for it.

    Args:
        source: the whole video.
        target: file to write.
        config: as for the whole.
        part: from `split.plan_parts`.
        on_progress: called with (seconds of this part done, 0).

    Raises:
        VideoError: seeking does not lead where it should, the source changes within, or as for `transcode`.
        StorageError: the target cannot be written.
    """
    encoder = Encoder(target, config, start_frame=part.start_frame)
    with contextlib.closing(encoder), open_source(source, config.stream) as video:
        digests: list[str] = []
        num_source_frames = 0
        with _decoding(video):
            if (first := next(video.container.decode(video.stream), None)) is None:
                raise VideoError(f"{source}: not one frame could be decoded", "The file is damaged or truncated.")
            graph = _Graph(first, video, config)
            is_over = False
            for frame in video.frames_from(part.start_pts):
                num_source_frames += part.stop_pts is None or cast(int, frame.pts) < part.stop_pts
                for picture in graph.push(frame):
                    is_over = is_over or _write_within(encoder, picture, part, digests)
                on_progress(video.seconds, 0)
                if is_over:
                    break
            if (first.width, first.height, first.format.name) != video.kind or not video.is_uniform:
                raise VideoError(f"{source}: its pictures change half-way")
        if part.stop_frame is None:
            for picture in graph.finish():
                _write_within(encoder, picture, part, digests)
        if len(digests) != 1 + (part.stop_frame is not None):
            raise VideoError(f"{source}: it ends before the part from frame {part.start_frame} on does")
        info = replace(_info(video, graph, encoder), num_source_frames=num_source_frames)
        return PartInfo(info=info, first_digest=digests[0], next_digest=digests[-1] if part.stop_frame else "")


def _write_within(encoder: Encoder, picture: av.VideoFrame, part: SourcePart, digests: list[str]) -> bool:
    """Encode a picture if it is the part's; note the first one and the one after the last. Returns whether it is over.

    Pictures before the part's first come from the frame that is shown there, which may last for several.
    """
    index = cast(int, picture.pts) - part.zero_pts
    if index < part.start_frame:
        return False
    if not digests or index == part.stop_frame:
        digests.append(hashlib.sha256(picture.to_ndarray().tobytes()).hexdigest())
    if part.stop_frame is not None and index >= part.stop_frame:
        return True
    encoder.write(picture)
    return False


def join_parts(parts: Sequence[tuple[Path, PartInfo]], target: Path, config: EncodeConfig) -> TranscodeInfo:
    """Put the files of `transcode_part` together, without encoding again, to what `transcode` would have written.

    Raises:
        VideoError: two parts do not fit together: what one saw beyond its end is not what the next began with.
        StorageError: the target cannot be written.
    """
    for (_, before), (path, after) in pairwise(parts):
        if before.next_digest != after.first_digest:
            raise VideoError(f"{path}: seeking gave another picture than decoding from the start")
    encoder = Encoder(target, config)
    with contextlib.closing(encoder):
        for path, _ in parts:
            encoder.append(path)
    infos = [part.info for _, part in parts]
    return replace(
        infos[0],
        num_source_frames=sum(info.num_source_frames for info in infos),
        num_frames=encoder.num_frames,
    )


@contextlib.contextmanager
def _decoding(video: Source) -> Iterator[None]:
    """Turn FFmpeg's errors while a source is read into `VideoError`."""
    try:
        yield
    except CopeError:
        raise
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(
            f"{video.path}: decoding failed after {video.num_frames} frames ({video.seconds:.1f} s): {error}",
            "The file is damaged; repair or fetch it again.",
        ) from error


def _info(video: Source, graph: _Graph, encoder: Encoder) -> TranscodeInfo:
    return TranscodeInfo(
        source_codec=video.stream.codec_context.name,
        source_size=graph.source_size,
        source_start_seconds=graph.start_seconds,
        num_source_frames=video.num_frames,
        rotation_degrees=graph.rotation_degrees,
        num_size_changes=video.num_size_changes,
        size=graph.size,
        num_frames=encoder.num_frames,
    )


class _Graph:
    """The filters between decoder and encoder: constant rate, scale, upright, limited-range yuv420p."""

    def __init__(self, first: av.VideoFrame, video: Source, config: EncodeConfig) -> None:
        orientation = Orientation.of(first)
        turns, flip = orientation.turns, orientation.flip
        self.rotation_degrees = 90 * turns
        stored = FrameSize(width=first.width, height=first.height)
        upright = orientation.size(stored)
        if min(upright.width, upright.height) < 2:
            raise VideoError(f"{video.path}: pictures of {upright}, expected at least 2x2 pixels")
        self.source_size = upright
        self.size = fit_short_side(upright, config.short_side_px)
        self.graph = av.filter.Graph()
        self.graph.threads = 1  # scaling in slices costs up to half as much again
        width, height = (self.size.height, self.size.width) if turns % 2 else (self.size.width, self.size.height)
        rate = f"{config.fps}:round=near"
        scale = f"{width}:{height}:flags=bicubic+accurate_rnd+bitexact"
        steps = [("fps", rate), ("scale", scale)]
        if (video.stream.average_rate or 0) < config.fps:
            steps.reverse()  # scale each frame once, before it is repeated
        steps += [("hflip", "")] * flip + [("transpose", "cclock")] * turns
        steps += [("format", "pix_fmts=yuv420p:color_ranges=tv"), ("buffersink", "")]
        source = self.graph.add(
            "buffer",
            f"video_size={first.width}x{first.height}:pix_fmt={first.format.name}:time_base={video.time_base}"
            f":colorspace={first.colorspace}:range={first.color_range}",
        )
        self.graph.link_nodes(source, *(self.graph.add(name, args or None) for name, args in steps)).configure()
        self.start_seconds = float((first.pts or 0) * video.time_base)
        self.least_end_pts = (first.pts or 0) + math.ceil(1 / (config.fps * video.time_base))

    def push(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        """Put a frame in and yield what comes out; a video shorter than one frame lasts for one."""
        if frame is not None:
            frame.duration = max(frame.duration, self.least_end_pts - (frame.pts or 0))
        self.graph.vpush(frame)
        while True:
            try:
                yield self.graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return

    def finish(self) -> Iterator[av.VideoFrame]:
        """Yield what is left after the last frame."""
        return self.push(None)
