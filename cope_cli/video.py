"""Videos from Python: open one, index its slots, and read their primitives as arrays.

```python
import cope_cli as cope

video = cope.open("clip.mp4", fusion=30)  # encodes and extracts it unless the cache has it
video[3].motion  # (2, G, G) int16, half-pixels of the stream, current minus reference position
```

Legend: n slots of a video or of a part of it, G grid side.
"""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache as Store
from cope_cli.cache.store import PrimitivesEntry
from cope_cli.codec.fusion import FrameSize
from cope_cli.stages.frames import decode_grid_frame
from cope_cli.types import Float32, Float64, Int16, UInt8

_Array = TypeVar("_Array", bound=NDArray[Any])


def _read_only(array: _Array) -> _Array:
    array.setflags(write=False)
    return array


@dataclass(frozen=True)
class Slot:
    """One time step of a video. Arrays are read from the cache when they are asked for, and cannot be written to.

    Attributes:
        video: the video that the slot belongs to.
        index: its place among all slots of the video, from 0.
    """

    video: Video = field(repr=False)
    index: int

    def __repr__(self) -> str:
        grid = self.video.grid
        arrays = "" if self.is_iframe else f", motion int16 (2, {grid}, {grid}), residual int16 ({grid}, {grid}, 3)"
        kind = "I-frame" if self.is_iframe else "P-frame"
        return f"Slot({self.index} of {self.video.name}, {self.seconds:.2f} s, GOP {self.gop}, {kind}{arrays})"

    @property
    def seconds(self) -> float:
        """Time in the video, seconds."""
        return float(self.video.primitives.slots.seconds[self.index])

    @property
    def is_iframe(self) -> bool:
        """Whether the slot is the first of its GOP: its frame is stored whole, without motion and residual."""
        return bool(self.video.primitives.slots.is_iframe[self.index])

    @property
    def gop(self) -> int:
        """Index of its GOP, from 0."""
        return int(self.video.primitives.slots.gop[self.index])

    @property
    def motion(self) -> Int16 | None:
        """Displacement (x, y) since the previous slot, current minus reference position; None for an I-frame slot.

        (2, G, G) int16, in half-pixels of the encoded stream; of the source file for a video that was read directly.
        """
        return None if self.is_iframe else _read_only(self.video.primitives.motion(self.index))

    @property
    def motion_px(self) -> Float32 | None:
        """`motion` in pixels of the stream: (2, G, G) float32."""
        motion = self.motion
        return None if motion is None else _read_only(motion.astype(np.float32) * np.float32(0.5))

    @property
    def motion_grid(self) -> Float32 | None:
        """`motion` in grid points: (2, G, G) float32. Grid points are not square unless the video is."""
        motion_px = self.motion_px
        if motion_px is None:
            return None
        size = self.video.size
        scale = np.array([self.video.grid / size.width, self.video.grid / size.height], np.float32)
        return _read_only(motion_px * scale[:, None, None])

    @property
    def residual(self) -> Int16 | None:
        """What motion does not explain: (G, G, 3) int16 RGB in -255..255; None for an I-frame slot."""
        return None if self.is_iframe else _read_only(self.video.primitives.residual(self.index))

    @property
    def frame(self) -> UInt8:
        """Its picture on the grid, (G, G, 3) uint8 RGB, decoded from the stream; see `Video.frame`."""
        return _read_only(decode_grid_frame(self.video.store, self.video.primitives, self.index))


class Video(Sequence[Slot]):
    """The slots of a video, or a part of them, read from a cache entry.

    `video[3]` is a slot, `video[2:8]` a part of the video that reads the same entry.

    Args:
        entry: the cache entry with its primitives.
        store: the cache that the entry belongs to.

    Attributes:
        name: name of the cache entry.
        primitives: reader of the entry.
    """

    def __init__(self, entry: PrimitivesEntry, store: Store) -> None:
        self.name = entry.name
        self.store = store
        self.primitives = Primitives(entry)
        self._range = range(len(self.primitives.slots))

    def __repr__(self) -> str:
        num_iframes = int(self.is_iframe.sum())
        part = "" if self.is_whole else f", a part of {len(self.primitives.slots)} slots"
        return (
            f"Video({self.name!r}: {len(self)} slots ({num_iframes} I-frame, {len(self) - num_iframes} P-frame{part}), "
            f"{self.duration_seconds:.2f} s, {self.size} px, fusion {self.fusion}, grid {self.grid}, "
            f"{self.primitives.entry.way})"
        )

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> Slot: ...
    @overload
    def __getitem__(self, index: slice) -> Video: ...
    def __getitem__(self, index: int | slice) -> Slot | Video:
        if not isinstance(index, slice):
            return Slot(self, self._slot(index))
        part = Video.__new__(Video)
        part.name, part.store, part.primitives = self.name, self.store, self.primitives
        part._range = self._range[index]
        return part

    def _slot(self, index: int) -> int:
        """Return the place of a slot in the whole video."""
        try:
            return self._range[operator.index(index)]
        except IndexError:
            found = f"expected {-len(self)} to {len(self) - 1}" if len(self) else "there are no slots"
            raise IndexError(f"{self.name}: slot {index}: {found}") from None

    @property
    def is_whole(self) -> bool:
        """Whether these are all slots of the video, in order."""
        return self._range == range(len(self.primitives.slots))

    @property
    def grid(self) -> int:
        """Side G of the grid that motion and residual are stored on."""
        return self.primitives.grid_px

    @property
    def fusion(self) -> str:
        """Fusion window as `open` takes it: frames, or auto:N for adaptive windows."""
        return self.primitives.config.window

    @property
    def size(self) -> FrameSize:
        """Picture size of the stream, pixels: `size.width`, `size.height`."""
        return self.primitives.size

    @property
    def duration_seconds(self) -> float:
        """Length of the whole video."""
        return self.primitives.video_seconds

    @cached_property
    def seconds(self) -> Float64:
        """Times of the slots, (n,) float64."""
        return _read_only(self.primitives.slots.seconds[list(self._range)])

    @cached_property
    def is_iframe(self) -> NDArray[np.bool_]:
        """Which slots are I-frame slots, (n,) bool."""
        return _read_only(self.primitives.slots.is_iframe[list(self._range)])

    @property
    def motion(self) -> Int16:
        """Motion of all slots, (n, 2, G, G) int16, as `Slot.motion`; zero for I-frame slots."""
        return self._stacked(0, (2, self.grid, self.grid))

    @property
    def residual(self) -> Int16:
        """Residuals of all slots, (n, G, G, 3) int16, as `Slot.residual`; zero for I-frame slots."""
        return self._stacked(1, (self.grid, self.grid, 3))

    def _stacked(self, which: int, shape: tuple[int, int, int]) -> Int16:
        values = np.zeros((len(self), *shape), np.int16)
        p_slots = [slot.index for slot in self if not slot.is_iframe]
        if p_slots:
            values[~self.is_iframe] = self.primitives.p_slots(p_slots)[which]
        return _read_only(values)

    def at(self, *, seconds: float) -> Slot:
        """Return the slot that is shown at a time: the last one that begins at or before it.

        Args:
            seconds: time in the video, from that of the first slot to its end.

        Raises:
            IndexError: the video, or this part of it, has no slot for that time.
        """
        if not len(self) or not self.seconds[0] <= seconds <= self.duration_seconds:
            first = f"{self.seconds[0]:.2f}" if len(self) else "nothing"
            raise IndexError(f"{self.name}: {seconds} s: expected {first} to {self.duration_seconds:.2f} s")
        return self[bisect_right(self.seconds, seconds) - 1]

    def batches(self, size: int) -> Iterator[Video]:
        """Yield the slots in order, `size` at a time: parts of the video, the last one possibly shorter."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def frame(self, index: int) -> UInt8:
        """Return a slot's picture on the grid, (G, G, 3) uint8 RGB, decoded from the stream.

        Raises:
            IndexError: there is no such slot.
            EntryNotFoundError: the encoded video is no longer in the cache, or the source of a direct entry is gone.
        """
        return self[index].frame

    def reconstruct(self, index: int) -> UInt8:
        """Return what the primitives say a slot's picture is, (G, G, 3) uint8 RGB: equal to `frame` on every pixel.

        Starts at the I-frame of the slot's GOP and applies warp + residual (Eq. 1) slot by slot, in integers.

        Raises:
            IndexError: there is no such slot.
            CacheCorruptError: a checksum fails.
        """
        return _read_only(self.primitives.grid_frame(self._slot(index)))
