"""A source video's frames with timestamps that can be trusted, or an error that says why they cannot."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
from av.stream import Disposition

from cope_cli.errors import VideoError

Item = TypeVar("Item")

#: A gap between two frames above this is a broken timestamp: filling it would write hours of one picture.
MAX_GAP_SECONDS = 600.0
#: A step back between two frames above this is a new recording; below, it is a frame out of order, which is dropped.
MAX_STEP_BACK_SECONDS = 0.5


class Source:
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
        self.is_uniform = True
        self.kind: tuple[int, int, str] | None = None  # width, height and pixel format of the newest frame

    @property
    def frame_step(self) -> int:
        """Length of a frame by the stream's average rate, in its time base."""
        return round(1 / (self.stream.average_rate or 25) / self.time_base) or 1

    @property
    def duration_seconds(self) -> float:
        """Length from the file's header; 0 where it states none."""
        if self.stream.duration is not None:
            return float(self.stream.duration * self.time_base)
        return self.container.duration / av.time_base if self.container.duration else 0.0

    def packets(self) -> Iterator[av.Packet[av.VideoStream]]:
        """Read the packets, in the file's order."""
        return _to_the_end(self.container.demux(self.stream))

    def frames(self) -> Iterator[av.VideoFrame]:
        """Decode, give frames without a timestamp or a length one, and refuse a gap that no video has.

        Where the timestamps step back, a recording begins anew (two files joined): it follows the previous frame.
        """
        step = self.frame_step
        pts, shift = 0, 0
        for frame in _to_the_end(self.container.decode(self.stream)):
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
            self._count(frame)
            yield frame

    def frames_from(self, start_pts: int) -> Iterator[av.VideoFrame]:
        """Decode from the frame at `start_pts`, in the stream's time base, on; `split` found the timestamps in order.

        Raises:
            VideoError: seeking does not lead to that frame.
        """
        self.container.seek(start_pts, stream=self.stream)
        step = self.frame_step
        for frame in _to_the_end(self.container.decode(self.stream)):
            if frame.pts is None or (self.num_frames == 0 and frame.pts > start_pts):
                raise VideoError(f"{self.path}: no frame at {float(start_pts * self.time_base):.3f} s after seeking")
            if frame.pts < start_pts:
                continue
            frame.duration = frame.duration or step
            self.seconds = float((frame.pts - start_pts) * self.time_base)
            self._count(frame)
            yield frame

    def _count(self, frame: av.VideoFrame) -> None:
        kind = (frame.width, frame.height, frame.format.name)
        self.num_size_changes += self.kind is not None and self.kind[:2] != kind[:2]
        self.is_uniform &= self.kind in (None, kind)
        self.kind = kind
        self.num_frames += 1


def _to_the_end(items: Iterator[Item]) -> Iterator[Item]:
    """Read on to the end where other streams begin half-way, as in joined transport streams.

    For those PyAV (18.1) looks beyond its table of streams when it flushes the decoders, after ours, and may then raise
    IndexError, or not, as it happens; everything of our stream has come by then.
    """
    with contextlib.suppress(IndexError):
        yield from items


@contextlib.contextmanager
def open_source(path: Path, stream_index: int) -> Iterator[Source]:
    """Open one of a file's video streams, counted without cover pictures; one decoding thread.

    Raises:
        VideoError: there is no such file or stream, or FFmpeg cannot open it.
    """
    if not path.is_file():
        raise VideoError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes)", "Fetch or copy it again.")
    try:
        container = av.open(str(path), metadata_errors="replace")  # tags may be in any encoding
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
        if stream.codec_context is None:
            raise VideoError(f"{path}: FFmpeg has no decoder for its video stream")
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        yield Source(path, container, stream)
