"""Reading an encoded stream: pictures, picture types and motion vectors, one frame at a time.

Covered: what `cope encode` writes (MPEG-4 Part 2, one video stream, constant size, no B-frames, 4:2:0).
Not covered: anything else; it is refused with an error that names the frame.

One thread, the bit-exact flag and the portable inverse DCT: every machine decodes the same pixels.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from numpy.typing import NDArray

from cope_cli.codec.colour import Colour, Picture
from cope_cli.codec.fusion import FrameSize
from cope_cli.codec.gop import GopSpan, gop_spans
from cope_cli.codec.mpeg4.bitstream import ENCODE_AGAIN
from cope_cli.codec.mpeg4.prediction import Planes
from cope_cli.errors import VideoError
from cope_cli.types import UInt8

DECODER_OPTIONS = {"flags": "+bitexact", "idct": "simpleauto"}
_INDEX_KEYFRAME = 1
#: FFmpeg's AVMotionVector. PyAV builds this type anew for every frame, which takes longer than all the rest of it.
MOTION_VECTOR = np.dtype(
    [
        ("source", "<i4"),
        ("w", "u1"),
        ("h", "u1"),
        ("src_x", "<i2"),
        ("src_y", "<i2"),
        ("dst_x", "<i2"),
        ("dst_y", "<i2"),
        ("flags", "<u8"),
        ("motion_x", "<i4"),
        ("motion_y", "<i4"),
        ("motion_scale", "<u2"),
    ],
    align=True,
)


@dataclass(frozen=True, kw_only=True)
class StreamFrame:
    """One decoded frame; `picture` is a view of the decoder's buffers, which it keeps alive.

    Attributes:
        index: place in the stream, from 0.
        is_iframe: I-frame or P-frame.
        packet: its compressed bytes, one VOP.
        vol_header: the stream's header, for `bitstream.VolHeader`.
        size: picture size.
        colour: how the stream's pixels are to be read.
        decoded: PyAV's frame.
    """

    index: int
    is_iframe: bool
    packet: av.Packet[av.VideoStream]
    vol_header: bytes
    size: FrameSize
    colour: Colour
    decoded: av.VideoFrame

    @property
    def picture(self) -> Picture:
        """The frame's planes, without the padding at the end of each line."""
        return frame_picture(self.decoded)

    @property
    def planes(self) -> Planes:
        """The frame in whole macroblocks: the decoder keeps what lies beyond the edges, and vectors point at it."""
        rows, cols, _ = self.size.block_grid_shape
        return Planes(
            **{
                name: _plane_in_blocks(plane, side * rows, side * cols)
                for name, plane, side in zip(("luma", "cb", "cr"), self.decoded.planes, (8, 4, 4), strict=True)
            }
        )

    @property
    def vectors(self) -> NDArray[np.void] | None:
        """FFmpeg's motion-vector records, if they were asked for; None where there are none."""
        return frame_vectors(self.decoded)


def frame_picture(frame: av.VideoFrame) -> Picture:
    """Return a view of a 4:2:0 frame's planes, without the padding at the end of each line."""
    luma, cb, cr = (
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes
    )
    return Picture(luma=luma, cb=cb, cr=cr)


def frame_vectors(frame: av.VideoFrame) -> NDArray[np.void] | None:
    """Return a frame's motion-vector records; None where there are none."""
    # Not `frame.side_data`: the frame would keep it, it keeps the frame, and such cycles hold hundreds of megabytes
    # of pictures until the garbage collector comes round.
    side_data = SideDataContainer(frame).get("MOTION_VECTORS")  # type: ignore[call-arg]  # stub: no __init__
    if side_data is None:
        return None
    return np.frombuffer(side_data, MOTION_VECTOR)


def _plane_in_blocks(plane: av.video.plane.VideoPlane, height: int, width: int) -> UInt8:
    """Copy a plane with the rows and columns of its last macroblocks, which FFmpeg's decoder allocates and writes."""
    num_bytes = height * plane.line_size
    rows = np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(plane.buffer_ptr))
    return rows.reshape(height, plane.line_size)[:, :width].copy()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open an encoded file; FFmpeg's errors while it is open become `VideoError`."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{path}: no video stream", ENCODE_AGAIN)
            stream = container.streams.video[0]
            if stream.codec_context.name != "mpeg4":
                raise VideoError(f"{path}: the codec is {stream.codec_context.name}, expected mpeg4", ENCODE_AGAIN)
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: cannot be read: {error}", ENCODE_AGAIN) from error


def read_gop_spans(path: Path) -> list[GopSpan]:
    """Return an encoded stream's GOPs, from the picture types its container states; no frame is read.

    Raises:
        VideoError: the file cannot be read, holds no frame, or does not begin with an I-frame.
    """
    with _opened(path) as (_, stream):
        is_iframe = [bool(entry.flags & _INDEX_KEYFRAME) for entry in stream.index_entries]
    if not is_iframe or not is_iframe[0]:
        found = "a P-frame" if is_iframe else "no frame"
        raise VideoError(f"{path}: begins with {found}, expected an I-frame", ENCODE_AGAIN)
    return gop_spans(is_iframe)


def read_vops(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield each frame's compressed bytes and the stream's header, without decoding anything.

    Raises:
        VideoError: the file is not such a stream.
    """
    with _opened(path) as (container, stream):
        header = stream.codec_context.extradata or b""
        for packet in container.demux(stream):
            if packet.size:
                yield bytes(packet), header


def read_frames(
    path: Path, ranges: Sequence[range] | None = None, *, with_vectors: bool = False
) -> Iterator[StreamFrame]:
    """Decode an encoded stream, or parts of it.

    Args:
        path: a file written by `cope encode`.
        ranges: frame indices to decode, ascending, each range from an I-frame on; None means all.
        with_vectors: also let FFmpeg export the motion vectors.

    Yields:
        Each frame in order, with its index in the stream.

    Raises:
        VideoError: the file is not such a stream, or a frame cannot be decoded.
    """
    with _opened(path) as (container, stream):
        context = stream.codec_context
        context.thread_type = "NONE"
        context.options = DECODER_OPTIONS | ({"flags2": "+export_mvs"} if with_vectors else {})
        header = context.extradata or b""
        size, colour = None, None
        for index, packet in _packets(container, stream, ranges):
            frames = packet.decode()
            if len(frames) != 1 or frames[0].pts != packet.pts:
                raise VideoError(f"{path}: frame {index} gave {len(frames)} pictures, expected its own", ENCODE_AGAIN)
            frame = frames[0]
            if size is None or colour is None:
                size = FrameSize(width=frame.width, height=frame.height)
                colour = Colour.from_ffmpeg(frame.colorspace, frame.color_range)
            _check_frame(path, index, frame, size)
            yield StreamFrame(
                index=index,
                is_iframe=frame.pict_type == av.video.frame.PictureType.I,
                packet=packet,
                vol_header=header,
                size=size,
                colour=colour,
                decoded=frame,
            )


def _packets(
    container: av.container.InputContainer, stream: av.VideoStream, ranges: Sequence[range] | None
) -> Iterator[tuple[int, av.Packet[av.VideoStream]]]:
    """Yield the packets of these frames with their frames' indices; what lies before the first range is skipped."""
    places = [entry.timestamp for entry in stream.index_entries]
    index_of = {timestamp: index for index, timestamp in enumerate(places)}
    wanted = iter(ranges if ranges is not None else [range(len(places))])
    current = next(wanted, range(0))
    if current.start:
        container.seek(places[current.start], stream=stream)
    for packet in container.demux(stream):
        if not packet.size or packet.dts is None:
            continue
        if (index := index_of.get(packet.dts)) is None:
            raise VideoError(f"{container.name}: a frame at {packet.dts} that its index does not list", ENCODE_AGAIN)
        while index >= current.stop:
            if (following := next(wanted, None)) is None:
                return
            current = following
        if index in current:
            yield index, packet


def _check_frame(path: Path, index: int, frame: av.VideoFrame, size: FrameSize) -> None:
    if (frame.width, frame.height) != (size.width, size.height):
        raise VideoError(
            f"{path}: frame {index} is {frame.width}x{frame.height}, the frames before {size}", ENCODE_AGAIN
        )
    if frame.format.name not in ("yuv420p", "yuvj420p"):
        raise VideoError(f"{path}: frame {index} is {frame.format.name}, expected yuv420p", ENCODE_AGAIN)
    kind = frame.pict_type
    if kind not in (av.video.frame.PictureType.I, av.video.frame.PictureType.P):
        raise VideoError(f"{path}: frame {index} is a {av.video.frame.PictureType(kind).name}-frame, expected I or P")
