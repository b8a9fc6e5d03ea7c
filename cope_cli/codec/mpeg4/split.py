"""Where a long source video can be cut, so that several processes encode it to the same bytes as one.

A part is a run of whole GOPs of the encoded stream and the source frames shown in them. Its process seeks to the
keyframe before the first of these. Only sources whose timestamps are all there and in order are cut; whether seeking
gives the same pictures as decoding from the start is checked where two parts meet (`transcode.join_parts`).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from cope_cli.codec.source import MAX_GAP_SECONDS, Source, open_source
from cope_cli.config import EncodeConfig


@dataclass(frozen=True, kw_only=True)
class SourcePart:
    """Part of a source video.

    Attributes:
        start_frame: first frame of the encoded stream, at the start of a GOP.
        stop_frame: the frame after the last, or None for all the rest.
        start_pts: time of the source frame shown at `start_frame`, in the source stream's time base.
        stop_pts: the same for `stop_frame`.
        zero_pts: time of the encoded stream's frame 0, in frames.
        total_frames: frames of the whole encoded stream, as far as the container tells.
    """

    start_frame: int
    stop_frame: int | None
    start_pts: int
    stop_pts: int | None
    zero_pts: int
    total_frames: int


def plan_parts(source: Path, config: EncodeConfig, workers: int, *, min_frames: int) -> list[SourcePart]:
    """Cut a video into parts of nearly equal length: two for each worker, or one where it is too short for two.

    More would cost: each part decodes what lies between the keyframe before it and its start once more.

    Args:
        source: the source video.
        config: how it is encoded.
        workers: processes that will share the parts.
        min_frames: the least frames of the encoded stream that are worth a part.

    Returns:
        The parts in order; empty if the video is too short, or cannot be cut safely.

    Raises:
        VideoError: it cannot be opened.
    """
    with open_source(source, config.stream) as video:
        times, keyframes = _packet_times(video)
        if not times:
            return []
        frames = [_round(time * video.time_base * config.fps) for time in times]  # as FFmpeg's fps filter rounds
    zero, num_frames = frames[0], frames[-1] - frames[0] + 1
    num_gops = num_frames // config.gop_frames
    most = min(num_gops, num_frames // min_frames)
    num = next((count for count in (2 * workers, workers) if count <= most), most)
    starts = [(0, times[0])]
    for part in range(1, num):
        frame = num_gops * part // num * config.gop_frames
        pts = times[bisect_right(frames, zero + frame) - 1]
        if keyframes[bisect_right(keyframes, pts) - 1] > starts[-1][1]:  # else it would decode the part before again
            starts.append((frame, pts))
    stops: list[tuple[int | None, int | None]] = [*starts[1:], (None, None)]
    if len(starts) < 2:
        return []
    return [
        SourcePart(
            start_frame=frame,
            start_pts=pts,
            stop_frame=stop_frame,
            stop_pts=stop_pts,
            zero_pts=zero,
            total_frames=num_frames,
        )
        for (frame, pts), (stop_frame, stop_pts) in zip(starts, stops, strict=True)
    ]


def _packet_times(video: Source) -> tuple[list[int], list[int]]:
    """Return the times of all frames and of the keyframes, ascending; nothing where they cannot be relied on."""
    times, decode_times, keyframes = [], [], []
    for packet in video.packets():
        if not packet.size:
            continue
        if packet.pts is None or packet.is_discard or packet.is_corrupt:
            return [], []
        times.append(packet.pts)
        if packet.dts is not None:  # Matroska does not store it
            decode_times.append(packet.dts)
        if packet.is_keyframe:
            keyframes.append(packet.pts)
    if any(after <= before for series in (decode_times, keyframes) for before, after in pairwise(series)):
        return [], []  # two recordings joined, or a damaged file
    times.sort()
    gaps = [after - before for before, after in pairwise(times)]
    if not keyframes or keyframes[0] != times[0] or min(gaps, default=1) <= 0:
        return [], []
    if max(gaps, default=0) * video.time_base > MAX_GAP_SECONDS:
        return [], []
    return times, keyframes


def _round(value: Fraction) -> int:
    """Round to the nearest, halves away from zero."""
    return int(value + Fraction(1, 2)) if value >= 0 else -int(-value + Fraction(1, 2))
