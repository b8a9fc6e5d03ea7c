"""Re-encoding a source video to the stream that `cope extract` reads (paper 4.1; DESIGN stage 1).

Covered: whatever FFmpeg decodes: any frame rate, VFR, rotation, odd sizes, 10-bit, size changes half-way.
Not covered: audio and subtitles (dropped), transparency (dropped), HDR tone mapping (matrix conversion only).

Measured traps, held by tests: without a reset of `pict_type` the encoder copies the source's I-frames; with `+qscale`
and `global_quality` alone every quality gives the same bytes, `qmin` = `qmax` is what sets it. `sc_threshold` is a
guard against I-frames at cuts, which the encoder is documented to make and never made here.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.stream import Disposition

from cope_cli.codec.colour import is_known_matrix
from cope_cli.codec.fusion import FrameSize
from cope_cli.config import EncodeConfig
from cope_cli.errors import CopeError, StorageError, VideoError

OnSeconds = Callable[[float, float], None]

#: FFmpeg's FF_QP2LAMBDA: `global_quality` is a quantiser times this.
_QUALITY_UNIT = 118
_NO_SCENE_CUT = "1000000000"
#: A gap between two frames above this is a broken timestamp: filling it would write hours of one picture.
MAX_GAP_SECONDS = 600.0
#: A step back between two frames above this is a new recording; below, it is a frame out of order, which is dropped.
MAX_STEP_BACK_SECONDS = 0.5
_UNSPECIFIED = 2
#: FFmpeg's colour-space number -> the primaries and transfer that go with it. The mp4 writer drops the matrix unless
#: all three are stated, and the pixels would then be read with another matrix.
_USUAL_WITH = {1: (1, 1), 5: (5, 6), 6: (6, 6), 7: (7, 7), 9: (9, 14)}


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


class _Source:
    """A video file's frames with checked timestamps, and what was seen of them."""

    def __init__(self, path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        self.path = path
        self.container = container
        self.stream = stream
        self.time_base = stream.time_base or Fraction(1, 90000)
        self.num_frames = 0
        self.num_size_changes = 0
        self.start_seconds = 0.0
        self.seconds = 0.0

    @property
    def duration_seconds(self) -> float:
        """Length from the file's header; 0 where it states none."""
        if self.stream.duration is not None:
            return float(self.stream.duration * self.time_base)
        return self.container.duration / av.time_base if self.container.duration else 0.0

    def frames(self) -> Iterator[av.VideoFrame]:
        """Decode, give frames without a timestamp or a length one, and refuse a gap that no video has.

        Where the timestamps step back, a recording begins anew (two files joined): it follows the frame before it.
        """
        step = round(1 / (self.stream.average_rate or 25) / self.time_base) or 1
        size, pts, shift = None, 0, 0
        for frame in self.container.decode(self.stream):
            if frame.pts is None:
                frame.pts = 0 if self.num_frames == 0 else pts + step
                frame.time_base = self.time_base
            else:
                if self.num_frames and (pts - frame.pts - shift) * self.time_base > MAX_STEP_BACK_SECONDS:
                    shift = pts + step - frame.pts
                frame.pts += shift
            frame.duration = frame.duration or step
            seconds = float(frame.pts * (frame.time_base or self.time_base))
            if self.num_frames == 0:
                self.start_seconds = seconds
            elif seconds - self.start_seconds - self.seconds > MAX_GAP_SECONDS:
                raise VideoError(
                    f"{self.path}: frame {self.num_frames} is at {seconds:.1f} s, the one before at "
                    f"{self.start_seconds + self.seconds:.1f} s: the timestamps are broken",
                    "Remux the file, for example with `ffmpeg -fflags +genpts -i IN -c copy OUT`.",
                )
            pts, self.seconds = frame.pts, max(self.seconds, seconds - self.start_seconds)
            self.num_size_changes += size is not None and size != (frame.width, frame.height)
            size = (frame.width, frame.height)
            self.num_frames += 1
            yield frame


@contextlib.contextmanager
def _open_source(path: Path, stream_index: int) -> Iterator[_Source]:
    if not path.is_file():
        raise VideoError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes)", "Fetch or copy it again.")
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(
            f"{path}: not a video that FFmpeg can open: {error.strerror or error}",
            "The file may be truncated (an mp4 keeps its index at the end) or of another type.",
        ) from error
    with container:
        videos = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        if not videos:
            kinds = ", ".join(sorted({stream.type for stream in container.streams} - {"video"})) or "nothing"
            raise VideoError(f"{path}: no video stream, only {kinds}")
        if stream_index >= len(videos):
            raise VideoError(
                f"{path}: --stream {stream_index}, but the file has {len(videos)} video stream(s), counted from 0"
            )
        stream = videos[stream_index]
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        yield _Source(path, container, stream)


def transcode(
    source: Path, target: Path, config: EncodeConfig, *, on_progress: OnSeconds = lambda done, total: None
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
    with _open_source(source, config.stream) as video:
        with contextlib.closing(_Encoder(target, config)) as encoder:
            graph: _Graph | None = None
            try:
                for frame in video.frames():
                    graph = graph or _Graph(frame, video, config)
                    encoder.write(graph.push(frame))
                    on_progress(video.seconds, video.duration_seconds)
            except CopeError:
                raise
            except (av.error.FFmpegError, OSError) as error:
                raise VideoError(
                    f"{source}: decoding failed after {video.num_frames} frames ({video.seconds:.1f} s): {error}",
                    "The file is damaged; repair or fetch it again.",
                ) from error
            if graph is None:
                raise VideoError(f"{source}: not one frame could be decoded", "The file is damaged or truncated.")
            encoder.write(graph.finish())
        return TranscodeInfo(
            source_codec=video.stream.codec_context.name,
            source_size=graph.source_size,
            source_start_seconds=video.start_seconds,
            num_source_frames=video.num_frames,
            rotation_degrees=graph.rotation_degrees,
            num_size_changes=video.num_size_changes,
            size=graph.size,
            num_frames=encoder.num_frames,
        )


class _Graph:
    """The filters between decoder and encoder: constant rate, scale, upright, limited-range yuv420p."""

    def __init__(self, first: av.VideoFrame, video: _Source, config: EncodeConfig) -> None:
        turns, flip = _orientation(first)
        self.rotation_degrees = 90 * turns
        stored = FrameSize(width=first.width, height=first.height)
        upright = FrameSize(width=stored.height, height=stored.width) if turns % 2 else stored
        if min(upright.width, upright.height) < 2:
            raise VideoError(f"{video.path}: pictures of {upright}, expected at least 2x2 pixels")
        self.source_size = upright
        self.size = fit_short_side(upright, config.short_side_px)
        self.graph = av.filter.Graph()
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


def _orientation(frame: av.VideoFrame) -> tuple[int, int]:
    """Return how to set a frame upright: mirror left-right (0 or 1), then quarter turns counter-clockwise.

    The display matrix maps stored (x, y) to shown (a x + c y, b x + d y), y downwards; angles that are no multiple of
    90 degrees are rounded to the nearest.
    """
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return 0, 0
    a, b, _, c, d = np.frombuffer(cast(Any, side_data), np.int32)[:5].astype(np.int64)
    flip = int(a * d - b * c < 0)
    if flip:
        a, b = -a, -b
    turns = round(float(np.degrees(np.arctan2(-b, a))) / 90) % 4
    return turns, flip


class _Encoder:
    """The mp4 file being written; it opens with the first frame, which fixes size and colour."""

    def __init__(self, path: Path, config: EncodeConfig) -> None:
        self.path = path
        self.config = config
        self.num_frames = 0
        self.stream: av.VideoStream | None = None
        with self._storage_errors():
            self.container = av.open(str(path), "w", format="mp4")

    @contextlib.contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            raise StorageError(f"{self.path}: writing failed: {error}", "Is the disk full?") from error

    def write(self, frames: Iterator[av.VideoFrame]) -> None:
        """Encode frames, numbered as they come."""
        for frame in frames:
            with self._storage_errors():
                stream = self.stream or self._open_stream(frame)
                frame.pict_type = av.video.frame.PictureType.NONE
                frame.pts = self.num_frames
                frame.time_base = Fraction(1, self.config.fps)
                self.container.mux(stream.encode(frame))
                self.num_frames += 1

    def _open_stream(self, frame: av.VideoFrame) -> av.VideoStream:
        quality = self.config.quality
        options = {
            "flags": "+qscale+bitexact",
            "global_quality": str(_QUALITY_UNIT * quality),
            "qmin": str(quality),
            "qmax": str(quality),
            "sc_threshold": _NO_SCENE_CUT,
        }
        stream = self.container.add_stream("mpeg4", rate=self.config.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
        context = stream.codec_context
        context.gop_size = self.config.gop_frames
        context.max_b_frames = 0
        context.time_base = Fraction(1, self.config.fps)
        context.thread_type = "NONE"
        context.colorspace = frame.colorspace if is_known_matrix(frame.colorspace) else _UNSPECIFIED
        context.color_range = frame.color_range
        primaries, transfer = _USUAL_WITH.get(frame.colorspace, (_UNSPECIFIED, _UNSPECIFIED))
        context.color_primaries = primaries if frame.color_primaries == _UNSPECIFIED else frame.color_primaries
        context.color_trc = transfer if frame.color_trc == _UNSPECIFIED else frame.color_trc
        self.stream = stream
        return stream

    def close(self) -> None:
        """Flush the encoder and write the file's index."""
        with self._storage_errors():
            if self.stream is not None:
                self.container.mux(self.stream.encode(None))
            self.container.close()
