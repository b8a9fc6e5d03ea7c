"""Frames of a source video at evenly spaced times, as a VideoLM without codec primitives takes them.

This is the usual way: index n of N frames, `floor(i * (total - 1) / (N - 1))`, each decoded, turned to RGB and resized
to the vision encoder's square (Pillow bicubic). Either everything up to the last wanted frame is decoded, or each is
sought from the keyframe before it; which is faster depends on how far apart frames and keyframes are.

Covered: what FFmpeg decodes, with timestamps. Not covered: rotation, and streams without timestamps when seeking.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from cope_cli.codec.colour import resize_for_vision
from cope_cli.codec.source import Source, open_source
from cope_cli.errors import VideoError
from cope_cli.types import UInt8


@dataclass(frozen=True, kw_only=True)
class SampledFrames:
    """Evenly spaced frames.

    Attributes:
        rgb: (N, V, V, 3) uint8.
        seconds: time of each since the first frame of the video.
        video_seconds: time of the last frame of the video.
    """

    rgb: UInt8
    seconds: tuple[float, ...]
    video_seconds: float


def sample_frames(path: Path, num_frames: int, size_px: int, *, by_seeking: bool) -> SampledFrames:
    """Decode evenly spaced frames, with FFmpeg's threads.

    Args:
        path: a video file.
        num_frames: how many, N; all of them if the video has fewer.
        size_px: side V of the pictures.
        by_seeking: seek before each frame that has a keyframe between it and the one before; else decode everything.

    Raises:
        VideoError: the video cannot be decoded, or not be sought in.
    """
    with open_source(path, 0) as source:
        times, keyframes = _times(path, source)
    wanted = [times[index] for index in sampled_indices(len(times), num_frames)]
    with open_source(path, 0) as source:
        if source.stream.codec_context is not None:
            source.stream.codec_context.thread_type = "AUTO"
            source.stream.codec_context.thread_count = 0
        try:
            frames = _frames_at(source, wanted, keyframes if by_seeking else [])
            pictures = [resize_for_vision(_rgb(frame), size_px) for frame in frames]
        except av.error.FFmpegError as error:
            raise VideoError(f"{path}: cannot be decoded: {error.strerror or error}") from error
    if len(pictures) != len(wanted):
        raise VideoError(f"{path}: {len(pictures)} of {len(wanted)} frames found", "Is the file damaged?")
    base = source.time_base
    return SampledFrames(
        rgb=np.stack(pictures),
        seconds=tuple(float((time - times[0]) * base) for time in wanted),
        video_seconds=float((times[-1] - times[0]) * base),
    )


def sampled_indices(total: int, num: int) -> list[int]:
    """Return `num` of `total` indices, evenly spaced from the first to the last; all of them if there are fewer."""
    if num >= total:
        return list(range(total))
    return [index * (total - 1) // max(num - 1, 1) for index in range(num)]


def _rgb(frame: av.VideoFrame) -> UInt8:
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)


def _times(path: Path, source: Source) -> tuple[list[int], list[int]]:
    """Return the times of all frames and of the keyframes, ascending, in the stream's time base."""
    times, keyframes = [], []
    for packet in source.packets():
        if not packet.size:
            continue
        if packet.pts is None:
            raise VideoError(f"{path}: a packet without a timestamp", "Remux the file.")
        times.append(packet.pts)
        if packet.is_keyframe:
            keyframes.append(packet.pts)
    if not times:
        raise VideoError(f"{path}: no frames")
    return sorted(times), sorted(keyframes)


def _frames_at(source: Source, wanted: list[int], keyframes: list[int]) -> Iterator[av.VideoFrame]:
    """Yield the frame at each wanted time, or the next where the decoder drops it."""
    frames = iter(source.container.decode(source.stream))
    position: int | None = None
    for time in wanted:
        before = bisect_right(keyframes, time) - 1
        if before > 0 and (position is None or keyframes[before] > position):
            source.container.seek(keyframes[before], stream=source.stream)
            frames = iter(source.container.decode(source.stream))
        for frame in frames:
            position = frame.pts if frame.pts is not None else time
            if position >= time:
                yield frame
                break
