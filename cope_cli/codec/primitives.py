"""From an encoded stream to its slots: one pass, one window of block grids in memory at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cope_cli.codec.colour import Picture, resize_for_vision
from cope_cli.codec.fusion import FrameSize, block_grid, fuse_motion, residual_of, warp
from cope_cli.codec.gop import Slot
from cope_cli.codec.mpeg4.bitstream import VolHeader, VopParser
from cope_cli.codec.mpeg4.prediction import Planes, predict
from cope_cli.codec.mpeg4.stream import StreamFrame, read_frames, read_gop_spans
from cope_cli.errors import VideoError
from cope_cli.types import Int16, UInt8

OnFrame = Callable[[int], None]


def ignore_frame(index: int) -> None:
    """Stand in where nobody wants to know about progress."""


@dataclass(frozen=True, kw_only=True)
class SlotPrimitives:
    """One slot's pictures: an I-frame slot has only its grid frame, a P-frame slot also motion and residual.

    Attributes:
        slot: where it stands in the stream.
        size: picture size of the stream.
        grid_frame: (G, G, 3) uint8.
        motion: (2, G, G) int16, half-pixels of the stream, or None.
        residual: (G, G, 3) int16, or None.
        codec_residual: (G, G, 3) int16 where the window is one frame: what the codec itself added to its prediction.
        rgb: (V, V, 3) uint8 at a vision encoder's input size where that was asked for, else None.
    """

    slot: Slot
    size: FrameSize
    grid_frame: UInt8
    motion: Int16 | None = None
    residual: Int16 | None = None
    codec_residual: Int16 | None = None
    rgb: UInt8 | None = None


def extract_slots(
    path: Path,
    slots: Sequence[Slot],
    grid_px: int,
    *,
    with_codec_residual: bool = False,
    rgb_frames: Collection[int] = (),
    rgb_size_px: int = 384,
    on_frame: OnFrame = ignore_frame,
) -> Iterator[SlotPrimitives]:
    """Yield slots of an encoded stream with their fused primitives (paper 3.1).

    Only what a slot depends on is decoded: not the frames after a GOP's last slot. Only slot frames are converted to
    RGB.

    Args:
        path: a file written by `cope encode`.
        slots: those of whole GOPs, from `gop.slots_of` and `stream.read_gop_spans`.
        grid_px: grid side G.
        with_codec_residual: the codec's own residual too; every window must be one frame.
        rgb_frames: stream indices of the slots whose RGB picture is wanted too.
        rgb_size_px: side V of the RGB pictures.
        on_frame: called with each frame's index, for progress.

    Raises:
        VideoError: the stream cannot be decoded, or its picture types are not those of `slots`.
    """
    slot_at = {slot.frame: slot for slot in slots}
    window: _Window | None = None
    previous: UInt8 | None = None
    num_found = 0
    for frame in read_frames(path, _gop_ranges(slots), with_vectors=True):
        on_frame(frame.index)
        slot = slot_at.get(frame.index)
        window = _fill_window(path, window, frame, slot, slots)
        if slot is None:
            continue
        rgb = _rgb(frame, rgb_size_px) if slot.frame in rgb_frames else None
        grid_frame = frame.picture.to_grid(grid_px, frame.colour)
        motion = residual = codec_residual = None
        if previous is not None and not slot.is_iframe:
            motion = fuse_motion(window.blocks, frame.size, grid_px)
            residual = residual_of(grid_frame, warp(previous, motion, frame.size))
            if with_codec_residual:
                codec_residual = residual_of(grid_frame, window.predicted(frame).to_grid(grid_px, frame.colour))
        window.begin(frame if with_codec_residual else None)
        previous = grid_frame
        num_found += 1
        yield SlotPrimitives(
            slot=slot,
            size=frame.size,
            grid_frame=grid_frame,
            motion=motion,
            residual=residual,
            codec_residual=codec_residual,
            rgb=rgb,
        )
    if num_found != len(slots):
        raise VideoError(f"{path}: the stream ends after {num_found} of {len(slots)} slots")


def _fill_window(
    path: Path, window: _Window | None, frame: StreamFrame, slot: Slot | None, slots: Sequence[Slot]
) -> _Window:
    """Return the window with a frame added; a new one for the first frame.

    Raises:
        VideoError: the frame's type or vectors are not what they must be.
    """
    if frame.is_iframe != (slot is not None and slot.is_iframe):
        kind = "an I-frame" if frame.is_iframe else "a P-frame"
        raise VideoError(f"{path}: frame {frame.index} is {kind}, which its container does not say")
    try:
        window = window or _Window(frame, max(slot.window_frames for slot in slots))
        if not frame.is_iframe:
            window.add(frame)
    except VideoError as error:
        raise VideoError(f"{path}: frame {frame.index}: {error.message}", error.hint) from error
    return window


def _gop_ranges(slots: Sequence[Slot]) -> list[range]:
    """Return the frames to decode for these slots: each GOP's from its I-frame to its last slot."""
    ranges: list[range] = []
    for slot in slots:
        start = slot.frame if slot.is_iframe else ranges.pop().start
        ranges.append(range(start, slot.frame + 1))
    return ranges


class _Window:
    """The block grids of the P-frames since the last slot, in memory that is allocated once.

    Args:
        first: the stream's first frame.
        max_frames: the longest window.
    """

    def __init__(self, first: StreamFrame, max_frames: int) -> None:
        self._parser = VopParser(VolHeader.parse(first.vol_header), first.size)
        self._buffer = np.empty((max_frames, *first.size.block_grid_shape), np.int16)
        self._num = 0
        self._reference: Planes | None = None

    @property
    def blocks(self) -> Int16:
        """(n, rows, cols, 2) int16, oldest first."""
        return self._buffer[: self._num]

    def begin(self, reference: StreamFrame | None) -> None:
        """Begin a new window; `reference`, the previous frame, is needed for `predicted` only."""
        self._num = 0
        self._reference = reference.planes if reference is not None else None

    def add(self, frame: StreamFrame) -> None:
        """Take the next P-frame's vectors."""
        block_grid(frame.vectors, frame.size, self._buffer[self._num])
        self._num += 1

    def predicted(self, frame: StreamFrame) -> Picture:
        """Return the codec's prediction of the window's only frame."""
        assert self._reference is not None and self._num == 1
        rounding_type = self._parser.read_header(frame.packet).rounding_type
        return predict(self._reference, self._buffer[0], rounding_type).cropped(frame.picture)


def read_slot_frames(
    path: Path,
    frames: Collection[int],
    convert: Callable[[StreamFrame], UInt8],
    *,
    on_frame: OnFrame = ignore_frame,
) -> Iterator[UInt8]:
    """Decode what the wanted frames depend on and yield ``convert(frame)`` for each, in stream order.

    Args:
        path: a file written by `cope encode`.
        frames: stream indices.
        convert: for example `rgb_converter(384)`.
        on_frame: called with each decoded frame's index, for progress.

    Raises:
        VideoError: the stream cannot be decoded or ends before the last wanted frame.
    """
    wanted = set(frames)
    if not wanted:
        return
    spans = read_gop_spans(path)
    starts = [span.start_frame for span in spans]
    ranges: list[range] = []
    for index in sorted(wanted):
        start = starts[bisect_right(starts, index) - 1]
        if ranges and ranges[-1].start == start:
            ranges.pop()
        ranges.append(range(start, index + 1))
    for frame in read_frames(path, ranges):
        on_frame(frame.index)
        if frame.index in wanted:
            wanted.discard(frame.index)
            yield convert(frame)
    if wanted:
        raise VideoError(f"{path}: frame {max(wanted)} is past the end of the stream")


def rgb_converter(size_px: int) -> Callable[[StreamFrame], UInt8]:
    """Return a function from a frame to its (V, V, 3) RGB picture for a vision encoder of input size V."""
    return lambda frame: _rgb(frame, size_px)


def _rgb(frame: StreamFrame, size_px: int) -> UInt8:
    return resize_for_vision(frame.picture.to_rgb(frame.colour), size_px)
