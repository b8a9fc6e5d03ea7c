"""Writing and reading a primitives entry: bounded memory going in, checked bytes coming out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cope_cli.cache.reader import EXTRACT_AGAIN, ArrayReader
from cope_cli.cache.schema import ShardWriter, compress, write_group, write_table
from cope_cli.cache.store import PrimitivesEntry
from cope_cli.codec.fusion import FrameSize, rebuild
from cope_cli.codec.gop import Slot
from cope_cli.config import PRIMITIVES_SCHEMA, ExtractConfig
from cope_cli.errors import CacheCorruptError
from cope_cli.types import Float64, Int16, UInt8

if TYPE_CHECKING:
    from cope_cli.codec.primitives import SlotPrimitives


def compress_slot(primitives: SlotPrimitives) -> dict[str, bytes]:
    """Return a slot's chunks by the name of the array that each belongs to; an RGB picture's is `rgb`."""
    if primitives.motion is None or primitives.residual is None:
        arrays: dict[str, NDArray[Any]] = {"grid_iframe": primitives.grid_frame}
    else:
        arrays = {"motion": primitives.motion, "residual": primitives.residual}
    if primitives.codec_residual is not None:
        arrays["codec_residual"] = primitives.codec_residual
    if primitives.rgb is not None:
        arrays["rgb"] = primitives.rgb
    return {name: compress(values) for name, values in arrays.items()}


class PrimitivesWriter:
    """Fills the Zarr group of one video, slot by slot, in order; one slot in memory at a time.

    Args:
        folder: where to create the group; the caller commits it.
        slots: all slots of the video.
        config: grid and fusion window.
        size: picture size of the stream.
        fps: its frame rate; where windows are counted in frames of another rate, that rate.
        seconds: each slot's time, if it is not its frame over `fps`: the video was read directly.
    """

    def __init__(
        self,
        folder: Path,
        slots: Sequence[Slot],
        config: ExtractConfig,
        size: FrameSize,
        fps: int,
        *,
        seconds: Sequence[float] | None = None,
    ) -> None:
        num_iframes = sum(slot.is_iframe for slot in slots)
        num_pframes = len(slots) - num_iframes
        per_gop = max((sum(slot.gop == 0 for slot in slots) - 1, 1))
        grid = config.grid_px
        attributes = {
            "cope_schema": PRIMITIVES_SCHEMA,
            "grid_px": grid,
            "frame_width_px": size.width,
            "frame_height_px": size.height,
            "fps": fps,
        }
        write_group(folder, attributes)
        write_table(folder, "slot_frame", np.array([slot.frame for slot in slots], "<i4"))
        times = [slot.frame / fps for slot in slots] if seconds is None else seconds
        write_table(folder, "slot_seconds", np.array(times, "<f8"))
        write_table(folder, "slot_is_iframe", np.array([slot.is_iframe for slot in slots], "|b1"))
        write_table(folder, "slot_gop", np.array([slot.gop for slot in slots], "<i4"))
        if config.adaptive:
            write_table(folder, "slot_window_frames", np.array([slot.window_frames for slot in slots], "<i4"))
        self._arrays = {
            "motion": ShardWriter(folder, "motion", num_pframes, (2, grid, grid), "<i2", per_gop),
            "residual": ShardWriter(folder, "residual", num_pframes, (grid, grid, 3), "<i2", per_gop),
            "grid_iframe": ShardWriter(folder, "grid_iframe", num_iframes, (grid, grid, 3), "|u1", 1),
        }
        if config.has_codec_residual and seconds is None:
            shape = (grid, grid, 3)
            self._arrays["codec_residual"] = ShardWriter(folder, "codec_residual", num_pframes, shape, "<i2", per_gop)

    def append(self, chunks: Mapping[str, bytes]) -> None:
        """Write the next slot's chunks, as `compress_slot` gave them; an RGB picture is not this writer's."""
        for name, chunk in chunks.items():
            if name != "rgb":
                self._arrays[name].append(chunk)

    def close(self) -> None:
        """Finish the last shards."""
        for array in self._arrays.values():
            array.close()


@dataclass(frozen=True, kw_only=True)
class SlotTable:
    """The slots of a video, S of them, as arrays.

    Attributes:
        frame: (S,) int32, index in the encoded stream.
        seconds: (S,) float64, time in the encoded stream.
        is_iframe: (S,) bool.
        gop: (S,) int32.
        payload: (S,) int32, each slot's row in `grid_iframe`, or in `motion` and `residual` if it is a P-frame slot.
    """

    frame: NDArray[np.int32]
    seconds: Float64
    is_iframe: NDArray[np.bool_]
    gop: NDArray[np.int32]
    payload: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.frame)


class Primitives:
    """A video's primitives, read slot by slot. Every read checks its checksum.

    Args:
        entry: the cache entry.

    Raises:
        CacheCorruptError: a file is missing or changed; later reads raise it too.
    """

    def __init__(self, entry: PrimitivesEntry) -> None:
        entry.check()
        self.entry = entry
        self.name = entry.name
        self._arrays = ArrayReader(entry.name, entry.folder, entry.manifest)
        attributes = self._arrays.attributes
        self.grid_px = int(str(attributes["grid_px"]))
        self.fps = int(str(attributes["fps"]))
        self.size = FrameSize(
            width=int(str(attributes["frame_width_px"])), height=int(str(attributes["frame_height_px"]))
        )

    @cached_property
    def config(self) -> ExtractConfig:
        """How it was extracted."""
        return ExtractConfig.from_dict(self.entry.manifest.config)

    @property
    def fusion_frames(self) -> int:
        """The fusion window s, in frames."""
        return self.config.fusion_frames

    @property
    def has_codec_residual(self) -> bool:
        """Whether the codec's own residual is there: with windows of one frame of an encoded video."""
        return self.config.has_codec_residual and not self.entry.is_direct

    @property
    def video_seconds(self) -> float:
        """Length of the video."""
        info = self.entry.manifest.info
        return float(info["seconds"]) if self.entry.is_direct else int(info["num_frames"]) / self.fps

    @cached_property
    def slots(self) -> SlotTable:
        """The slot table."""
        is_iframe = self._read("slot_is_iframe", slice(None)).astype(np.bool_)
        payload = np.where(is_iframe, np.cumsum(is_iframe), np.cumsum(~is_iframe)) - 1
        return SlotTable(
            frame=self._read("slot_frame", slice(None)),
            seconds=self._read("slot_seconds", slice(None)),
            is_iframe=is_iframe,
            gop=self._read("slot_gop", slice(None)),
            payload=payload.astype(np.int32),
        )

    @cached_property
    def _windows(self) -> NDArray[np.int32]:
        if self.config.adaptive:
            return np.asarray(self._read("slot_window_frames", slice(None)), np.int32)
        is_first = self.slots.is_iframe
        return np.where(is_first, 0, np.diff(self.slots.frame, prepend=0)).astype(np.int32)

    def window_frames(self, slot: int) -> int:
        """Return the length of a slot's window in frames of the stream; 0 for an I-frame slot."""
        return int(self._windows[slot])

    @cached_property
    def window_seconds(self) -> tuple[float, ...]:
        """Length of each slot's window; 0 for I-frame slots."""
        slots = self.slots
        gaps = np.where(slots.is_iframe, 0.0, np.diff(slots.seconds, prepend=0.0))
        return tuple(float(gap) for gap in gaps)

    def motion(self, slot: int) -> Int16:
        """Return a P-frame slot's motion field, (2, G, G) int16, half-pixels of the encoded stream (x, y)."""
        motion: Int16 = self._read("motion", self._payload(slot, is_iframe=False))
        return motion

    def residual(self, slot: int) -> Int16:
        """Return a P-frame slot's residual, (G, G, 3) int16 RGB in -255..255."""
        residual: Int16 = self._read("residual", self._payload(slot, is_iframe=False))
        return residual

    def codec_residual(self, slot: int) -> Int16:
        """Return a P-frame slot's residual as the codec has it, (G, G, 3) int16 RGB in -255..255; fusion window 1 only.

        The picture minus the codec's own prediction of it, both on the grid: exactly zero where no coefficient was
        coded (docs/cache-format.md).
        """
        residual: Int16 = self._read("codec_residual", self._payload(slot, is_iframe=False))
        return residual

    def p_slots(self, slots: Sequence[int]) -> tuple[Int16, Int16]:
        """Return motion (n, 2, G, G) and residual (n, G, G, 3), both int16, of n P-frame slots.

        Neighbouring slots are read together, which is faster than one by one.
        """
        rows = [self._payload(slot, is_iframe=False) for slot in slots]
        grid = self.grid_px
        motion = np.empty((len(rows), 2, grid, grid), np.int16)
        residual = np.empty((len(rows), grid, grid, 3), np.int16)
        start = 0
        for end in range(1, len(rows) + 1):
            if end == len(rows) or rows[end] != rows[end - 1] + 1:
                where = slice(rows[start], rows[end - 1] + 1)
                motion[start:end] = self._read("motion", where)
                residual[start:end] = self._read("residual", where)
                start = end
        return motion, residual

    def grid_iframe(self, slot: int) -> UInt8:
        """Return an I-frame slot's grid frame, (G, G, 3) uint8 RGB."""
        grid_frame: UInt8 = self._read("grid_iframe", self._payload(slot, is_iframe=True))
        return grid_frame

    def grid_frames(self, first: int = 0) -> Iterator[UInt8]:
        """Rebuild every slot's grid frame in order by Eq. 1, from `grid_iframe`, `motion` and `residual` alone.

        Args:
            first: an I-frame slot to begin at.

        Raises:
            CacheCorruptError: the arrays do not belong together.
        """
        previous: UInt8 | None = None
        for slot, is_iframe in enumerate(self.slots.is_iframe[first:], first):
            if is_iframe:
                previous = self.grid_iframe(slot)
            elif previous is None:
                raise CacheCorruptError(
                    f"{self.name}: slot {slot} is a P-frame slot with no I-frame before it", EXTRACT_AGAIN
                )
            else:
                try:
                    previous = rebuild(previous, self.motion(slot), self.residual(slot), self.size)
                except ValueError as error:
                    raise CacheCorruptError(f"{self.name}: slot {slot}: {error}", EXTRACT_AGAIN) from error
            yield previous

    def grid_frame(self, slot: int) -> UInt8:
        """Return one slot's grid frame, rebuilt from the I-frame of its GOP; shape and errors as in `grid_frames`."""
        first = int(np.argmax(self.slots.gop == self.slots.gop[slot]))
        return next(islice(self.grid_frames(first), slot - first, None))

    def array_kind(self, name: str) -> tuple[tuple[int, ...], str]:
        """Return an array's shape and dtype name.

        Raises:
            CacheCorruptError: there is no such array.
        """
        array = self._arrays.open(name)
        return tuple(array.shape), str(array.dtype)

    def _payload(self, slot: int, *, is_iframe: bool) -> int:
        if bool(self.slots.is_iframe[slot]) != is_iframe:
            found, wanted = ("an I-frame", "a P-frame") if not is_iframe else ("a P-frame", "an I-frame")
            raise LookupError(f"{self.name}: slot {slot} is {found} slot, expected {wanted} slot")
        return int(self.slots.payload[slot])

    def _read(self, array: str, where: int | slice) -> Any:
        return self._arrays.read(array, where)
