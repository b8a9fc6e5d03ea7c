"""Source videos for tests: rendered pictures, written with whatever codec, container, rate and tags a test needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from known_scenes import render

from cope_cli.types import UInt8
from cope_cli.world.scenes import Pan, Scene, SceneShot, Shape, Waypoint

Pictures = Iterable[UInt8]

TINTS = ((60, 90, 70), (150, 120, 120))
_COLOUR_TAGS = {"bt601": 6, "bt709": 1, "bt2020": 9, "smpte240m": 7}
_SWSCALE_NUMBERS = {"bt601": 5, "bt709": 1, "bt2020": 9, "smpte240m": 7}
_DISPLAY_MATRIX_AT = 44  # bytes from a version 0 tkhd box's name to its matrix (ISO/IEC 14496-12, 8.3.2)


def pan_scene(
    num_frames: int, *, width: int = 160, height: int = 96, x_px: int = 0, y_px: int = 0, with_shape: bool = False
) -> Scene:
    """A textured background; the camera moves by (x_px, y_px) pixels per frame."""
    seconds = num_frames / 30
    pans = (Pan(from_seconds=0, until_seconds=seconds, x_px_per_frame=x_px, y_px_per_frame=y_px),)
    path = (Waypoint(0, width / 3, height / 2), Waypoint(seconds, width / 3 + num_frames * 1.5, height / 2))
    shapes = (Shape(kind="circle", colour="red", radius_px=height / 4, path=path, seed=4),) if with_shape else ()
    shot = SceneShot(seconds=seconds, background_seed=3, tints=TINTS, pans=pans, shapes=shapes)
    return Scene(name="pan", shots=(shot,), width=width, height=height)


def cut_scene(*shot_frames: int, width: int = 96, height: int = 64) -> Scene:
    """Shots of these many frames, each of another background."""
    tints = (((20, 30, 25), (60, 50, 40)), ((200, 180, 160), (240, 230, 210)))
    shots = tuple(
        SceneShot(seconds=frames / 30, background_seed=10 + index, tints=tints[index % 2])
        for index, frames in enumerate(shot_frames)
    )
    return Scene(name="cuts", shots=shots, width=width, height=height)


def pictures(num: int, *, width: int = 96, height: int = 64, x_px: int = 1, y_px: int = 0) -> list[UInt8]:
    """`num` RGB pictures of a slow pan with a moving disc (if it fits); sizes may be odd."""
    scene = pan_scene(num, width=width + 1, height=height + 1, x_px=x_px, y_px=y_px, with_shape=height >= 24)
    return [picture[:height, :width] for picture in islice(render(scene), num)]


def as_frame(picture: UInt8, pix_fmt: str, *, matrix: str = "bt601", is_full_range: bool = False) -> av.VideoFrame:
    """Convert an RGB picture with the matrix and range that the file will be tagged with."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    if pix_fmt in ("rgb24", "gbrp", "bgr0"):
        return frame.reformat(format=pix_fmt)
    return frame.reformat(
        format=pix_fmt, dst_colorspace=_SWSCALE_NUMBERS[matrix], dst_color_range=2 if is_full_range else 1
    )


def write_video(
    path: Path,
    frames: Pictures,
    *,
    codec: str = "libx264",
    container: str | None = None,
    fps: Fraction | int = 30,
    pix_fmt: str = "yuv420p",
    times_ms: Sequence[int] | None = None,
    matrix: str | None = None,
    is_full_range: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    """Write pictures as a video file.

    Args:
        path: where to.
        frames: RGB pictures.
        codec: FFmpeg's encoder.
        container: FFmpeg's muxer; by the suffix if not given.
        fps: constant rate, and the nominal one where `times_ms` is given.
        pix_fmt: pixel format of the file.
        times_ms: each frame's time, for a variable rate.
        matrix: colour matrix to convert with and tag; BT.601 and no tag if not given.
        is_full_range: convert to full range and tag it.
        options: the encoder's.
    """
    options = {"crf": "12", "preset": "ultrafast"} if codec == "libx264" and options is None else options
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(codec, rate=fps, options=options or {})
        stream.pix_fmt = pix_fmt
        stream.thread_count = 1
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if matrix is not None:
            stream.colorspace = _COLOUR_TAGS[matrix]
        if is_full_range:
            stream.color_range = 2
        for index, picture in enumerate(frames):
            if index == 0:
                stream.height, stream.width = picture.shape[:2]
            frame = as_frame(picture, pix_fmt, matrix=matrix or "bt601", is_full_range=is_full_range)
            frame.pts = index if times_ms is None else times_ms[index]
            frame.time_base = 1 / Fraction(fps) if times_ms is None else Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def write_streams(path: Path, streams: Sequence[Sequence[UInt8]], *, fps: int = 30) -> Path:
    """Write a file with several video streams of equal length."""
    with av.open(str(path), "w") as output:
        outputs = []
        for frames in streams:
            stream = output.add_stream("libx264", rate=fps, options={"crf": "12", "preset": "ultrafast"})
            stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
            outputs.append(stream)
        for index in range(len(streams[0])):
            for stream, frames in zip(outputs, streams, strict=True):
                frame = as_frame(frames[index], "yuv420p")
                frame.pts, frame.time_base = index, Fraction(1, fps)
                output.mux(stream.encode(frame))
        for stream in outputs:
            output.mux(stream.encode(None))
    return path


def write_audio(path: Path, *, cover: UInt8 | None = None) -> Path:
    """Write half a second of silence, with a cover picture if one is given."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=8000)
        if cover is not None:
            picture = output.add_stream("mjpeg")
            picture.height, picture.width, picture.pix_fmt = *cover.shape[:2], "yuvj420p"
            picture.disposition = Disposition.attached_pic
            frame = as_frame(cover, "yuvj420p", is_full_range=True)
            frame.pts = 0
            output.mux(picture.encode(frame))
            output.mux(picture.encode(None))
        for index in range(4):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, index * 1024
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Make an mp4 shown turned: stored (x, y) goes to (a x + c y, b x + d y), as a phone writes it."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + _DISPLAY_MATRIX_AT
    one = 1 << 16
    values = np.array([a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30], ">i4").tobytes()
    data[at : at + len(values)] = values
    path.write_bytes(data)


def show_turned(picture: UInt8, a: int, b: int, c: int, d: int) -> UInt8:
    """What a player shows of a stored picture with that display matrix, pixel by pixel."""
    height, width = picture.shape[:2]
    ys, xs = np.mgrid[:height, :width]
    new_x, new_y = a * xs + c * ys, b * xs + d * ys
    new_x, new_y = new_x - new_x.min(), new_y - new_y.min()
    shown = np.empty((new_y.max() + 1, new_x.max() + 1, 3), np.uint8)
    shown[new_y, new_x] = picture
    return shown


def decode_rgb(path: Path) -> list[UInt8]:
    """Decode a file with FFmpeg's own conversion to RGB: the stream's matrix and range, accurate rounding."""
    with av.open(str(path)) as container:
        return [
            frame.reformat(
                format="rgb24", src_colorspace=_swscale_number(frame.colorspace), interpolation="BICUBIC"
            ).to_ndarray()
            for frame in container.decode(video=0)
        ]


def _swscale_number(colorspace: int) -> int:
    return {1: 1, 7: 7, 9: 9}.get(colorspace, 5)


def picture_types(path: Path) -> str:
    """The types of a file's frames as decoded, such as ``IPPP``."""
    with av.open(str(path)) as container:
        return "".join(av.video.frame.PictureType(frame.pict_type).name for frame in container.decode(video=0))


def psnr(a: UInt8, b: UInt8) -> float:
    """Peak signal to noise ratio in dB."""
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9)))
