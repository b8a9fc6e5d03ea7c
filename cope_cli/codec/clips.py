"""Writes pictures as an H.264 clip: the kind of file a user would give to `cope encode`.

Covered: RGB pictures of one even size, any whole number of frames per second, yuv420p, BT.601 limited range (converted
and tagged). Not covered: sound, variable frame rate, other codecs. One thread, so that the same frames give the same
file again on the same machine.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import (
    ColorPrimaries,
    ColorRange,
    Colorspace,
    ColorTrc,
    Interpolation,
    VideoReformatter,
)
from av.video.stream import VideoStream

from cope_cli.errors import StorageError
from cope_cli.files import sync_file
from cope_cli.types import UInt8

_MATRIX_SMPTE170M = 6  # AVCOL_SPC_SMPTE170M, the 525-line name of BT.601; PyAV's `Colorspace` counts swscale's way
_SCALER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


def write_h264(frames: Iterable[UInt8], path: Path, *, fps: int, crf: int, preset: str = "medium") -> None:
    """Write frames as an H.264 MP4, under a temporary name and then renamed.

    Args:
        frames: pictures in order, each (H, W, 3) uint8 RGB with H and W even and the same for all.
        path: the file to write; its folder is made if need be, and a file already there is replaced.
        fps: frames per second, at least 1.
        crf: libx264's constant rate factor: 0 is the best quality and the largest file, 51 the worst.
        preset: libx264's name for how much time it takes to make the file small.

    Raises:
        ValueError: no frames, a frame of another shape or type than the first, an odd size, or a number out of range.
        StorageError: the disk is full or the folder cannot be written.
    """
    if fps < 1 or not 0 <= crf <= 51:
        raise ValueError(f"fps must be at least 1 and crf 0 to 51, found fps {fps} and crf {crf}")
    stream_of_frames = iter(frames)
    first = next(stream_of_frames, None)
    if first is None:
        raise ValueError(f"{path}: no frames to write")
    _check_picture(first)

    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = _add_stream(container, first.shape, fps=fps, crf=crf, preset=preset)
            _encode(container, stream, chain([first], stream_of_frames))
        sync_file(temporary)
        temporary.replace(path)
    except OSError as error:
        raise StorageError.of(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # what went wrong first is what the caller must hear
            temporary.unlink(missing_ok=True)


def _check_picture(picture: UInt8) -> None:
    """Refuse what yuv420p cannot hold."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a frame must be (H, W, 3) uint8, found {picture.shape} {picture.dtype}")
    if picture.shape[0] % 2 or picture.shape[1] % 2:
        raise ValueError(f"height and width must be even, found {picture.shape[0]} x {picture.shape[1]}")


def _add_stream(container: OutputContainer, shape: tuple[int, ...], *, fps: int, crf: int, preset: str) -> VideoStream:
    """Add the one video stream, tagged BT.601 limited range."""
    stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "preset": preset})
    stream.height, stream.width = shape[:2]
    stream.pix_fmt = "yuv420p"
    stream.thread_count = 1
    stream.color_range = ColorRange.MPEG
    stream.colorspace = _MATRIX_SMPTE170M
    stream.color_primaries = ColorPrimaries.SMPTE170M
    stream.color_trc = ColorTrc.SMPTE170M
    return stream


def _encode(container: OutputContainer, stream: VideoStream, frames: Iterator[UInt8]) -> None:
    """Convert, encode and mux every frame, then what the encoder still holds."""
    converter = VideoReformatter()  # one for all frames: setting it up takes longer than converting a small picture
    for index, picture in enumerate(frames):
        expected = (stream.height, stream.width, 3)
        if picture.shape != expected or picture.dtype != np.uint8:
            raise ValueError(f"frame {index} is {picture.shape} {picture.dtype}, frame 0 is {expected} uint8")
        frame = converter.reformat(
            av.VideoFrame.from_ndarray(picture, format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.MPEG,
            interpolation=_SCALER,
        )
        frame.pts = index
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
