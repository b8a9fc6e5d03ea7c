"""From a video file to its slots without re-encoding: block grids along the references, traced at each slot."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from cope_cli.codec.colour import resize_for_vision
from cope_cli.codec.direct import kernels as reference_kernels
from cope_cli.codec.direct.stream import DirectFrame, SourceStream, encode_hint, read_direct_frames
from cope_cli.codec.fusion import residual_of, warp
from cope_cli.codec.gop import Slot, timed_slots
from cope_cli.codec.primitives import OnFrame, SlotPrimitives, ignore_frame
from cope_cli.config import DirectConfig
from cope_cli.errors import VideoError
from cope_cli.types import Int16, UInt8


def slots_of_stream(stream: SourceStream, config: DirectConfig) -> list[Slot]:
    """Return every slot of a stream, by time; see `gop.timed_slots`."""
    return timed_slots(
        stream.seconds,
        [frame.is_keyframe for frame in stream.frames],
        [frame.is_reference for frame in stream.frames],
        window_seconds=config.window_seconds,
        gop_seconds=config.gop_seconds,
        keep_tail=config.extract.keep_tail,
    )


def extract_direct_slots(
    stream: SourceStream,
    slots: Sequence[Slot],
    grid_px: int,
    *,
    rgb_frames: Collection[int] = (),
    rgb_size_px: int = 384,
    on_frame: OnFrame = ignore_frame,
) -> Iterator[SlotPrimitives]:
    """Yield slots of a video file with their fused primitives; arguments and errors as `primitives.extract_slots`.

    If every slot is a reference frame, others are not even decoded: they are in no trace.
    """
    waiting: deque[_Pending] = deque(_Pending(slot=slot, ready=_ready_at(stream, slot)) for slot in slots)
    pending: deque[_Pending] = deque()
    window = _References(stream, grid_px)
    previous: _Pending | None = None
    wanted = [slot.frame for slot in slots]
    starts = [slot.frame for slot in slots if slot.is_iframe]

    def finished(until: int | None) -> Iterator[SlotPrimitives]:
        nonlocal previous
        while pending and (until is None or pending[0].ready <= until):
            current = pending.popleft()
            yield _slot_primitives(stream, window, previous, current)
            previous = current
            window.drop_until(current.slot.frame)

    for frame in read_direct_frames(stream, wanted, starts, with_vectors=True):
        on_frame(frame.index)
        while waiting and waiting[0].slot.frame < frame.index:
            raise _missing(stream, waiting[0].slot)
        window.add(frame)
        if waiting and waiting[0].slot.frame == frame.index:
            rgb_size = rgb_size_px if frame.index in rgb_frames else 0
            pending.append(waiting.popleft())
            pending[-1].take(stream, frame, grid_px, rgb_size)
        yield from finished(frame.index)
    yield from finished(None)
    if waiting:
        raise _missing(stream, waiting[0].slot)


def read_direct_rgb(
    stream: SourceStream,
    slots: Sequence[Slot],
    wanted: Sequence[int],
    size_px: int,
    *,
    on_frame: OnFrame = ignore_frame,
) -> Iterator[UInt8]:
    """Yield the RGB pictures (V, V, 3) of slots, given by ascending index, for a vision encoder of input size V.

    Raises:
        VideoError: the stream cannot be decoded.
    """
    frames = [slots[index].frame for index in wanted]
    starts = [slot.frame for slot in slots if slot.is_iframe]
    left = deque(frames)
    for frame in read_direct_frames(stream, frames, starts):
        on_frame(frame.index)
        if left and frame.index == left[0]:
            left.popleft()
            yield _rgb(stream, frame, size_px)
    if left:
        raise VideoError(f"{stream.path}: frame {left[0]} is missing: it cannot be decoded", encode_hint(stream.path))


def _missing(stream: SourceStream, slot: Slot) -> VideoError:
    return VideoError(
        f"{stream.path}: frame {slot.frame}, at {stream.seconds[slot.frame]:.2f} s, cannot be decoded",
        encode_hint(stream.path),
    )


def _rgb(stream: SourceStream, frame: DirectFrame, size_px: int) -> UInt8:
    return resize_for_vision(stream.orientation.picture(frame.picture.to_rgb(frame.colour)), size_px)


def _ready_at(stream: SourceStream, slot: Slot) -> int:
    """Return the frame after which all that a slot's trace can reach has been decoded.

    A trace may lead to references shown later, and from there to later ones yet, all decoded before the slot.
    """
    index, after = slot.frame, slot.frame
    while after >= 0:
        index, after = after, stream.links[after][1]
    return index


@dataclass(kw_only=True)
class _Pending:
    """A slot that waits for references which are shown after it."""

    slot: Slot
    ready: int
    grid_frame: UInt8 = field(default_factory=lambda: np.empty((0, 0, 3), np.uint8))
    rgb: UInt8 | None = None

    def take(self, stream: SourceStream, frame: DirectFrame, grid_px: int, rgb_size_px: int) -> None:
        """Keep what is needed of the slot's picture."""
        self.grid_frame = stream.orientation.picture(frame.picture.to_grid(grid_px, frame.colour))
        if rgb_size_px:
            self.rgb = _rgb(stream, frame, rgb_size_px)


def _slot_primitives(
    stream: SourceStream, window: _References, previous: _Pending | None, current: _Pending
) -> SlotPrimitives:
    motion = residual = None
    if previous is not None and not current.slot.is_iframe:
        stored = window.trace(current.slot.frame, previous.slot.frame)
        motion = stream.orientation.motion(stored)
        residual = residual_of(current.grid_frame, warp(previous.grid_frame, motion, stream.size))
    return SlotPrimitives(
        slot=current.slot,
        size=stream.size,
        grid_frame=current.grid_frame,
        motion=motion,
        residual=residual,
        rgb=current.rgb,
    )


class _References:
    """The two-sided block grids of the frames since the last slot, in memory that is used again."""

    def __init__(self, stream: SourceStream, grid_px: int) -> None:
        self._stream = stream
        rows, cols, _ = stream.stored_size.block_grid_shape
        self._buffer = np.empty((32, rows, cols, 2, 2), np.int16)
        self._rows: dict[int, int] = {}  # frame -> row of the buffer
        self._free = list(range(32))
        self._undecided: dict[int, int] = {}  # frame -> the frame whose vectors it waits for
        self._motion = np.empty((2, grid_px, grid_px), np.int16)

    def add(self, frame: DirectFrame) -> None:
        """Take the next frame's vectors."""
        if not self._free:
            num = len(self._buffer)
            self._buffer = np.concatenate([self._buffer, np.empty_like(self._buffer)])
            self._free = list(range(num, 2 * num))
        row = self._free.pop()
        self._rows[frame.index] = row
        grid, records = self._buffer[row], frame.vectors if self._stream.has_vectors(frame.index) else None
        if records is None:
            grid[..., 0] = reference_kernels.NO_VECTOR
            self._invent(frame.index, grid)
        elif reference_kernels.fill_sides(records, grid):
            raise VideoError(
                f"{self._stream.path}: frame {frame.index}: a motion vector that no picture has: damage",
                encode_hint(self._stream.path),
            )
        for between in [index for index, after in self._undecided.items() if after == frame.index]:
            del self._undecided[between]
            if between in self._rows:
                self._scale(frame.index, between)

    def _invent(self, index: int, grid: Int16) -> None:
        """Give a frame without vectors those that its neighbours suggest; without any it stands still."""
        stream = self._stream
        before, after = stream.links[index]
        between = stream.bridges.get(index, -1)
        if not stream.has_vectors(index):
            self._undecided[index] = after  # half-way of what the reference after it does, once that is there
        elif between in self._rows:
            times = np.array([stream.frames[one].pts for one in (before, between, index)], np.int64)
            reference_kernels.bridge(self._buffer[self._rows[between]], times, grid)
        elif before in self._rows:
            self._scale(before, index)  # continues the previous picture's motion

    def _scale(self, source: int, target: int) -> None:
        """Give a frame another's vectors to the side before, as long as its own step to its reference lasts."""
        (row, times), (goal_row, goal_times) = self._row_and_times(source), self._row_and_times(target)
        whole, part = times[0] - times[1], goal_times[0] - goal_times[1]
        if whole:
            reference_kernels.scale(self._buffer[row], part, whole, self._buffer[goal_row])

    def _row_and_times(self, index: int) -> tuple[int, tuple[int, int]]:
        """Return a frame's row, its time and that of its reference before, its own where it has none."""
        frames, before = self._stream.frames, self._stream.links[index][0]
        return self._rows[index], (frames[index].pts, frames[before if before >= 0 else index].pts)

    def drop_until(self, index: int) -> None:
        """Forget this frame and those shown before it."""
        for old in [frame for frame in self._rows if frame <= index]:
            self._free.append(self._rows.pop(old))

    def trace(self, frame: int, goal: int) -> Int16:
        """Return the motion (2, G, G) of a slot since the previous one, both given by frame; as stored, not upright."""
        frames = self._stream.frames
        num = len(self._buffer)
        links, times = np.full((num, 2), -1, np.int64), np.zeros((num, 2), np.int64)
        for index in self._rows:
            row, shown = self._row_and_times(index)
            times[row] = shown
            links[row] = [self._rows.get(link, -1) if link > goal else -1 for link in self._stream.links[index]]
        reference_kernels.trace_references(
            self._buffer,
            links,
            times,
            self._rows[frame],
            frames[goal].pts,
            self._stream.stored_size.width,
            self._stream.stored_size.height,
            self._motion,
        )
        return self._motion.copy()
