"""From an encoded stream to its slots: one pass, one window of block grids in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cope_cli.codec.colour import resize_for_vision
from cope_cli.codec.fusion import FrameSize, block_grid, fuse_motion, residual_of, warp
from cope_cli.codec.gop import Slot
from cope_cli.codec.stream import StreamFrame, read_frames
from cope_cli.errors import VideoError

UInt8 = NDArray[np.uint8]
Int16 = NDArray[np.int16]
OnFrame = Callable[[int], None]


def _ignore(index: int) -> None:
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
        rgb: (V, V, 3) uint8 at a vision encoder's input size where that was asked for, else None.
    """

    slot: Slot
    size: FrameSize
    grid_frame: UInt8
    motion: Int16 | None = None
    residual: Int16 | None = None
    rgb: UInt8 | None = None


def extract_slots(
    path: Path,
    slots: Sequence[Slot],
    grid_px: int,
    *,
    rgb_frames: Collection[int] = (),
    rgb_size_px: int = 384,
    on_frame: OnFrame = _ignore,
) -> Iterator[SlotPrimitives]:
    """Yield every slot of an encoded stream with its fused primitives (paper 3.1).

    Only slot frames are converted to RGB.

    Args:
        path: a file written by `cope encode`.
        slots: all its slots, from `gop.slots_of` and `stream.read_gop_spans`.
        grid_px: grid side G.
        rgb_frames: stream indices of the slots whose RGB picture is wanted too.
        rgb_size_px: side V of the RGB pictures.
        on_frame: called with each frame's index, for progress.

    Raises:
        VideoError: the stream cannot be decoded, or its picture types are not those of `slots`.
    """
    slot_at = {slot.frame: slot for slot in slots}
    window: Int16 | None = None  # block grids of one fusion window, allocated once
    capacity = max((slot.window_frames for slot in slots), default=0)
    num_in_window = 0
    previous: UInt8 | None = None
    num_found = 0
    for frame in read_frames(path):
        on_frame(frame.index)
        slot = slot_at.get(frame.index)
        if frame.is_iframe != (slot is not None and slot.is_iframe):
            kind = "an I-frame" if frame.is_iframe else "a P-frame"
            raise VideoError(f"{path}: frame {frame.index} is {kind}, which its container does not say")
        if window is None:
            window = np.empty((capacity, *frame.size.block_grid_shape), np.int16)
        if frame.is_iframe:
            num_in_window = 0
        elif num_in_window < capacity:
            block_grid(frame.vectors, frame.size, window[num_in_window])
            num_in_window += 1
        if slot is None:
            continue
        rgb = _rgb(frame, rgb_size_px) if slot.frame in rgb_frames else None
        grid_frame = frame.picture.to_grid(grid_px, frame.colour)
        motion = residual = None
        if previous is not None and not slot.is_iframe:
            motion = fuse_motion(window[:num_in_window], frame.size, grid_px)
            residual = residual_of(grid_frame, warp(previous, motion, frame.size))
        num_in_window = 0
        previous = grid_frame
        num_found += 1
        yield SlotPrimitives(
            slot=slot, size=frame.size, grid_frame=grid_frame, motion=motion, residual=residual, rgb=rgb
        )
    if num_found != len(slots):
        raise VideoError(f"{path}: the stream ends after {num_found} of {len(slots)} slots")


def read_slot_frames(
    path: Path,
    frames: Collection[int],
    convert: Callable[[StreamFrame], UInt8],
    *,
    on_frame: OnFrame = _ignore,
) -> Iterator[UInt8]:
    """Decode a stream and yield ``convert(frame)`` for the wanted frames, in stream order.

    Args:
        path: a file written by `cope encode`.
        frames: stream indices.
        convert: for example `rgb_converter(384)` or `grid_converter(224)`.
        on_frame: called with each decoded frame's index, for progress.

    Raises:
        VideoError: the stream cannot be decoded or ends before the last wanted frame.
    """
    wanted = set(frames)
    if not wanted:
        return
    for frame in read_frames(path, with_vectors=False):
        on_frame(frame.index)
        if frame.index in wanted:
            wanted.discard(frame.index)
            yield convert(frame)
            if not wanted:
                return
    raise VideoError(f"{path}: frame {max(wanted)} is past the end of the stream")


def rgb_converter(size_px: int) -> Callable[[StreamFrame], UInt8]:
    """Return a function from a frame to its (V, V, 3) RGB picture for a vision encoder of input size V."""
    return lambda frame: _rgb(frame, size_px)


def grid_converter(grid_px: int) -> Callable[[StreamFrame], UInt8]:
    """Return a function from a frame to its (G, G, 3) grid frame."""
    return lambda frame: frame.picture.to_grid(grid_px, frame.colour)


def _rgb(frame: StreamFrame, size_px: int) -> UInt8:
    return resize_for_vision(frame.picture.to_rgb(frame.colour), size_px)
