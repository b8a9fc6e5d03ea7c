"""Primitives straight from a video file, without re-encoding: any rate, any GOPs, B-frames, one pass.

    file order      I0 P4 B2 b1 b3 P8 ...      decoding order; every reference stands before what it predicts
    shown order     I0 b1 B2 b3 P4 ...         slots are chosen here, by time

Covered: codecs whose vectors FFmpeg exports (`headers.VECTOR_CODECS`), progressive, 8-bit 4:2:0, any constant size,
turned and mirrored pictures, variable frame rate, open and closed GOPs of any length. A trace goes along references
(`reference_kernels`); over an I-frame it stands still for that one step, as it does on intra blocks.

Approximated: FFmpeg does not tell which of several references a vector points to. The nearest shown before (or after)
is taken, which is what encoders use most; `SourceStream.references` says so. The residual takes up what is wrong:
warp + residual = frame holds on every pixel all the same.

Not covered, and refused by name with `cope encode` as the way: other codecs, interlaced pictures, other pixel formats,
a size that changes half-way, missing or doubled timestamps, damaged pictures.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from cope_cli.codec.colour import Colour, Picture
from cope_cli.codec.direct.headers import VECTOR_CODECS, PictureHeaders, SequenceHeader
from cope_cli.codec.fusion import FrameSize
from cope_cli.codec.mpeg4.stream import DECODER_OPTIONS, frame_picture, frame_vectors
from cope_cli.codec.orientation import Orientation
from cope_cli.codec.source import MAX_GAP_SECONDS, Source, open_source
from cope_cli.errors import VideoError

_PIXEL_FORMATS = ("yuv420p", "yuvj420p")


@dataclass(frozen=True, kw_only=True)
class SourceFrame:
    """One frame of a file, known without decoding it.

    Attributes:
        pts: time of showing, in the stream's time base.
        place: place in decoding order.
        is_keyframe: whether a GOP of the stream begins here.
        can_restart: whether decoding may begin here after packets were left out.
        is_reference: whether other frames may be predicted from it.
    """

    pts: int
    place: int
    is_keyframe: bool
    can_restart: bool
    is_reference: bool


@dataclass(frozen=True, kw_only=True)
class SourceStream:
    """A video stream as its packets and first picture tell.

    Attributes:
        path: the file.
        stream_index: which video stream of the file, from 0.
        codec: FFmpeg's name.
        frames: in the order of showing.
        seconds: each frame's time since the first.
        stored_size: picture size before it is set upright.
        orientation: what sets it upright.
        references: "exact", or "approximate" where a picture may have several references to one side.
        first_place: where decoding begins, in decoding order: at a keyframe, which need not be shown.
        last_seconds: how long the last frame is shown, by the stream's average rate.
    """

    path: Path
    stream_index: int
    codec: str
    frames: tuple[SourceFrame, ...]
    seconds: tuple[float, ...]
    stored_size: FrameSize
    orientation: Orientation
    references: str
    first_place: int
    last_seconds: float

    @property
    def size(self) -> FrameSize:
        """Size of the upright picture."""
        return self.orientation.size(self.stored_size)

    @property
    def video_seconds(self) -> float:
        """Length of the video."""
        return self.seconds[-1] + self.last_seconds

    def has_vectors(self, index: int) -> bool:
        """Whether the vectors that FFmpeg exports of a frame mean anything: of MPEG-4's B-frames they do not."""
        return self.codec != "mpeg4" or self.frames[index].is_reference

    @cached_property
    def bridges(self) -> dict[int, int]:
        """For keyframes the frame that leads over them: a B-frame shown before, predicted from both sides."""
        found: dict[int, int] = {}
        for index, (before, after) in enumerate(self.links):
            is_between = before >= 0 and after >= 0 and self.frames[after].is_keyframe
            if is_between and self.links[after][0] == before and self.has_vectors(index):
                found[after] = index  # the nearest before the keyframe
        return found

    @cached_property
    def links(self) -> list[tuple[int, int]]:
        """For each frame the nearest reference shown before and after it that is decoded before it; -1 for none."""
        found = [(-1, -1)] * len(self.frames)
        known: list[int] = []  # references decoded so far, by index
        for index in sorted(range(len(self.frames)), key=lambda index: self.frames[index].place):
            at = bisect_left(known, index)
            found[index] = (known[at - 1] if at else -1, known[at] if at < len(known) else -1)
            if self.frames[index].is_reference:
                insort(known, index)
        return found


@dataclass(frozen=True, kw_only=True)
class DirectFrame:
    """One decoded frame: its place among the frames in the order of showing, picture, colour and vectors."""

    index: int
    colour: Colour
    decoded: av.VideoFrame

    @property
    def picture(self) -> Picture:
        """The frame's planes, as stored."""
        return frame_picture(self.decoded)

    @property
    def vectors(self) -> NDArray[np.void] | None:
        """FFmpeg's motion-vector records; None where there are none."""
        return frame_vectors(self.decoded)


def encode_hint(path: Path) -> str:
    """Return the hint for a video that cannot be read directly."""
    return f"Run `cope encode {path}`, then `cope extract`."


def read_stream(path: Path, stream_index: int = 0) -> SourceStream:
    """Read a video's packets and its first picture.

    Raises:
        VideoError: there is no such file or stream, or it cannot be read directly; the hint names `cope encode`.
    """
    with open_source(path, stream_index) as source:
        codec = source.stream.codec_context.name
        if codec not in VECTOR_CODECS:
            raise VideoError(
                f"{path}: FFmpeg exports no motion vectors of {source.stream.codec_context.codec.canonical_name}; "
                "it does of H.264, MPEG-1, MPEG-2, MPEG-4 and the H.263 family",
                encode_hint(path),
            )
        try:
            frames, sequence, first_place = _read_packets(source)
        except av.error.FFmpegError as error:
            raise VideoError(f"{path}: cannot be read: {error.strerror or error}", encode_hint(path)) from error
        _check_times(source, frames)
        first = _first_picture(path, stream_index, range(first_place, frames[-1].place + 1))
        if sequence is not None and (sequence.crop_left_px or sequence.crop_top_px):
            raise VideoError(f"{path}: the picture is cropped on the left or at the top", encode_hint(path))
        is_exact = codec != "h264" or (sequence is not None and sequence.max_references <= 1)
        return SourceStream(
            path=path,
            stream_index=stream_index,
            codec=codec,
            frames=tuple(frames),
            seconds=tuple(float((frame.pts - frames[0].pts) * source.time_base) for frame in frames),
            stored_size=FrameSize(width=first.width, height=first.height),
            orientation=Orientation.of(first),
            references="exact" if is_exact else "approximate",
            first_place=first_place,
            last_seconds=float(source.frame_step * source.time_base),
        )


def _read_packets(source: Source) -> tuple[list[SourceFrame], SequenceHeader | None, int]:
    """Return the frames that will be shown, in that order, H.264's sequence header, and where decoding begins."""
    headers = PictureHeaders.of(source.stream.codec_context.name, source.stream.codec_context.extradata)
    sequence = headers.sequence
    frames: list[SourceFrame] = []
    is_guessed = False
    first: tuple[int, int] | None = None  # time and place of the first keyframe
    for place, packet in enumerate(_packets(source)):
        data = bytes(memoryview(packet))
        if packet.is_corrupt:
            raise VideoError(f"{source.path}: packet {place} is damaged", encode_hint(source.path))
        sequence = sequence or headers.sequence_in(data)
        is_keyframe = bool(packet.is_keyframe)
        is_reference = headers.is_reference(data)
        is_guessed |= packet.pts is None
        pts = packet.dts if packet.pts is None else packet.pts  # the same where no frame is shown out of order
        if pts is None or (is_guessed and not is_reference):
            raise VideoError(f"{source.path}: packet {place} does not say when it is shown", encode_hint(source.path))
        if first is None and is_keyframe:
            first = pts, place
        if first is None or pts < first[0] or packet.is_discard:
            continue  # what comes before the first keyframe cannot be decoded; what is cut off is not shown
        frames.append(
            SourceFrame(
                pts=pts,
                place=place,
                is_keyframe=is_keyframe,
                can_restart=is_keyframe and headers.can_restart(data),
                is_reference=is_reference,
            )
        )
    return sorted(frames, key=lambda frame: frame.pts), sequence, first[1] if first is not None else 0


def _packets(source: Source) -> Iterator[av.Packet[av.VideoStream]]:
    """Yield the packets with data; their number is a frame's place."""
    return (packet for packet in source.packets() if packet.size)


def _check_times(source: Source, frames: Sequence[SourceFrame]) -> None:
    path = source.path
    if not frames:
        raise VideoError(f"{path}: not one frame could be read", "The file is damaged or truncated.")
    for number, (before, after) in enumerate(pairwise(frames)):
        if after.pts == before.pts:
            raise VideoError(
                f"{path}: frames {number} and {number + 1} have the same time: fields, or broken timestamps",
                encode_hint(path),
            )
        if (after.pts - before.pts) * source.time_base > MAX_GAP_SECONDS:
            raise VideoError(f"{path}: no frame for more than {MAX_GAP_SECONDS:.0f} s after frame {number}")


def _first_picture(path: Path, stream_index: int, places: range) -> av.VideoFrame:
    found = next(_decoded(path, stream_index, [places], {}), None)
    if found is None:
        raise VideoError(f"{path}: not one frame could be decoded", "The file is damaged or truncated.")
    return found


def read_direct_frames(
    stream: SourceStream, wanted: Sequence[int], starts: Sequence[int], *, with_vectors: bool = False
) -> Iterator[DirectFrame]:
    """Decode what the wanted frames depend on, and yield every frame that comes of it, in the order of showing.

    Args:
        stream: from `read_stream`.
        wanted: indices of frames, ascending.
        starts: indices of frames, ascending, before which nothing is needed but for wanted frames: the starts of GOPs.
        with_vectors: also let FFmpeg export the motion vectors.

    Raises:
        VideoError: a frame cannot be decoded, or is of a kind that is not covered.
    """
    options = dict(DECODER_OPTIONS) | ({"flags2": "+export_mvs"} if with_vectors else {})
    index_of = {frame.pts: index for index, frame in enumerate(stream.frames)}
    needed = {*wanted, *(stream.bridges.values() if with_vectors else ())}
    left_out = {
        frame.place for index, frame in enumerate(stream.frames) if not frame.is_reference and index not in needed
    }
    colour: Colour | None = None
    ranges = decode_ranges(stream, wanted, starts)
    for frame in _decoded(stream.path, stream.stream_index, ranges, options, left_out=left_out):
        index = index_of.get(frame.pts) if frame.pts is not None else None
        if index is None:
            continue  # shown before the first keyframe, or cut off
        _check_frame(stream, index, frame)
        colour = colour or Colour.from_ffmpeg(frame.colorspace, frame.color_range)
        yield DirectFrame(index=index, colour=colour, decoded=frame)


def decode_ranges(stream: SourceStream, wanted: Sequence[int], starts: Sequence[int]) -> list[range]:
    """Return the packets to decode, in ranges of places; decoding begins anew at each.

    Args:
        stream: the stream.
        wanted: indices of frames, ascending.
        starts: indices of first frames of GOPs, ascending.
    """
    frames = stream.frames
    ranges: list[range] = []
    begin = end = stream.first_place
    gops = [frames[start].place if frames[start].can_restart else None for start in starts]
    for index in wanted:
        place = gops[bisect_right(starts, index) - 1] if starts else None
        if place is not None and place > end:  # nothing between the last wanted frame and this GOP is needed
            if end > begin:
                ranges.append(range(begin, end))
            begin = place
        end = max(end, frames[index].place + 1)
    if end > begin:
        ranges.append(range(begin, end))
    return ranges


def _decoded(
    path: Path, stream_index: int, ranges: Sequence[range], options: dict[str, str], *, left_out: Container[int] = ()
) -> Iterator[av.VideoFrame]:
    """Decode ranges of packets but those left out, one thread; yield pictures in the order of showing in each range."""
    with open_source(path, stream_index) as source:  # sets thread type NONE: others give vectors that differ
        context = source.stream.codec_context
        context.options = options
        try:
            waiting = iter(ranges)
            current = next(waiting, None)
            for place, packet in enumerate(_packets(source)):
                if current is None:
                    return
                if place in current and place not in left_out:
                    yield from context.decode(packet)
                if place + 1 >= current.stop:
                    yield from context.decode(None)
                    context.flush_buffers()
                    current = next(waiting, None)
            if current is not None:
                yield from context.decode(None)
        except av.error.FFmpegError as error:
            raise VideoError(f"{path}: cannot be decoded: {error.strerror or error}", encode_hint(path)) from error


def _check_frame(stream: SourceStream, index: int, frame: av.VideoFrame) -> None:
    """Refuse a picture that is not covered."""
    found = ""
    if (frame.width, frame.height) != (stream.stored_size.width, stream.stored_size.height):
        found = f"is {frame.width}x{frame.height}, those before {stream.stored_size}"
    elif frame.format.name not in _PIXEL_FORMATS:
        found = f"is {frame.format.name}, expected 8-bit 4:2:0"
    elif frame.interlaced_frame:
        found = "is interlaced"
    elif frame.is_corrupt:
        found = "is damaged"
    if found:
        raise VideoError(f"{stream.path}: frame {index} {found}", encode_hint(stream.path))
