"""Reading an encoded stream: pictures, picture types and motion vectors, one frame at a time.

Covered: what `cope encode` writes (MPEG-4 Part 2, one video stream, constant size, no B-frames, 4:2:0).
Not covered: anything else; it is refused with an error that names the frame.

One thread, the bit-exact flag and the portable inverse DCT: every machine decodes the same pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from numpy.typing import NDArray

from cope_cli.codec.colour import Colour, Picture
from cope_cli.codec.fusion import FrameSize
from cope_cli.codec.gop import GopSpan, gop_spans
from cope_cli.errors import VideoError

_DECODER_OPTIONS = {"flags": "+bitexact", "idct": "simpleauto"}


@dataclass(frozen=True, kw_only=True)
class StreamFrame:
    """One decoded frame; `picture` and `vectors` are views of the decoder's buffers, which they keep alive.

    Attributes:
        index: place in the stream, from 0.
        is_iframe: I-frame or P-frame.
        vectors: motion-vector records, None where there are none.
        size: picture size.
        colour: how the stream's pixels are to be read.
        decoded: PyAV's frame.
    """

    index: int
    is_iframe: bool
    vectors: NDArray[np.void] | None
    size: FrameSize
    colour: Colour
    decoded: av.VideoFrame

    @property
    def picture(self) -> Picture:
        """The frame's planes, without the padding at the end of each line."""
        luma, cb, cr = (
            np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
            for plane in self.decoded.planes
        )
        return Picture(luma=luma, cb=cb, cr=cr)


_AGAIN = "Run `cope encode --force` on its source again."


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open an encoded file; FFmpeg's errors while it is open become `VideoError`."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{path}: no video stream", _AGAIN)
            stream = container.streams.video[0]
            if stream.codec_context.name != "mpeg4":
                raise VideoError(f"{path}: the codec is {stream.codec_context.name}, expected mpeg4", _AGAIN)
            yield container, stream
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: cannot be read: {error}", _AGAIN) from error


def read_gop_spans(path: Path) -> list[GopSpan]:
    """Return an encoded stream's GOPs, from the picture types its container states; nothing is decoded.

    Raises:
        VideoError: the file cannot be read, holds no frame, or does not begin with an I-frame.
    """
    with _opened(path) as (container, stream):
        is_iframe = [packet.is_keyframe for packet in container.demux(stream) if packet.size]
    if not is_iframe or not is_iframe[0]:
        found = "a P-frame" if is_iframe else "no frame"
        raise VideoError(f"{path}: begins with {found}, expected an I-frame", _AGAIN)
    return gop_spans(is_iframe)


def read_frames(path: Path, *, with_vectors: bool = True) -> Iterator[StreamFrame]:
    """Decode an encoded stream from its first frame to its last.

    Args:
        path: a file written by `cope encode`.
        with_vectors: also export the motion vectors (about a third of the decoding cost).

    Yields:
        Each frame in order, `index` counted from 0.

    Raises:
        VideoError: the file is not such a stream, or a frame cannot be decoded.
    """
    with _opened(path) as (container, stream):
        context = stream.codec_context
        context.thread_type = "NONE"
        context.options = _DECODER_OPTIONS | ({"flags2": "+export_mvs"} if with_vectors else {})
        size, colour = None, None
        for index, frame in enumerate(container.decode(stream)):
            if size is None or colour is None:
                size = FrameSize(width=frame.width, height=frame.height)
                colour = Colour.from_ffmpeg(frame.colorspace, frame.color_range)
            _check_frame(path, index, frame, size)
            yield StreamFrame(
                index=index,
                is_iframe=frame.pict_type == av.video.frame.PictureType.I,
                vectors=_vectors_of(frame) if with_vectors else None,
                size=size,
                colour=colour,
                decoded=frame,
            )


def _check_frame(path: Path, index: int, frame: av.VideoFrame, size: FrameSize) -> None:
    if (frame.width, frame.height) != (size.width, size.height):
        raise VideoError(f"{path}: frame {index} is {frame.width}x{frame.height}, the frames before {size}", _AGAIN)
    if frame.format.name not in ("yuv420p", "yuvj420p"):
        raise VideoError(f"{path}: frame {index} is {frame.format.name}, expected yuv420p", _AGAIN)
    kind = frame.pict_type
    if kind not in (av.video.frame.PictureType.I, av.video.frame.PictureType.P):
        raise VideoError(f"{path}: frame {index} is a {av.video.frame.PictureType(kind).name}-frame, expected I or P")


def _vectors_of(frame: av.VideoFrame) -> NDArray[np.void] | None:
    # Not `frame.side_data`: the frame would keep it, it keeps the frame, and such cycles hold hundreds of megabytes of
    # pictures until the garbage collector comes round.
    side_data = SideDataContainer(frame).get("MOTION_VECTORS")  # type: ignore[call-arg]  # the stub has no __init__
    if side_data is None:
        return None
    records: NDArray[np.void] = side_data.to_ndarray()
    return records
