"""RGB slots for a vision encoder: which ones, and adding those that an entry lacks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from cope_cli.cache.frames import Frames, FramesWriter, commit_part
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.schema import compress
from cope_cli.cache.store import Cache, EncodedEntry, PrimitivesEntry
from cope_cli.codec.direct.slots import read_direct_rgb, slots_of_stream
from cope_cli.codec.direct.stream import read_direct_frames, read_stream
from cope_cli.codec.gop import Slot, keyframe_slots
from cope_cli.codec.mpeg4.adaptive import slots_of_encoded
from cope_cli.codec.primitives import read_slot_frames, rgb_converter
from cope_cli.codec.versions import library_versions
from cope_cli.config import DirectConfig, ExtractConfig, FramesConfig
from cope_cli.errors import EntryNotFoundError, VideoError
from cope_cli.types import OnProgress, UInt8


@dataclass(frozen=True, kw_only=True)
class FramesRequest:
    """Which slots to keep as RGB for a vision encoder.

    Attributes:
        size_px: the vision encoder's input size V.
        keyframes_per_gop: those of K keyframes per GOP; 0 means every slot.
    """

    size_px: int = 384
    keyframes_per_gop: int = 4

    @classmethod
    def of(cls, config: FramesConfig) -> FramesRequest | None:
        """Return what a configuration asks for; None if it stores none."""
        if config.store_frames == "none":
            return None
        keyframes = 0 if config.store_frames == "all" else int(config.store_frames)
        return cls(size_px=config.frame_size_px, keyframes_per_gop=keyframes)

    def slots(self, slot_gop: Sequence[int]) -> list[int]:
        """Return the wanted slots of a video whose slots lie in these GOPs."""
        wanted: list[int] = []
        start = 0
        while start < len(slot_gop):
            end = start
            while end < len(slot_gop) and slot_gop[end] == slot_gop[start]:
                end += 1
            count = end - start
            wanted += [start + slot for slot in keyframe_slots(count, self.keyframes_per_gop or count)]
            start = end
        return wanted


def slots_of_entry(encoded: EncodedEntry, config: ExtractConfig) -> list[Slot]:
    """Return every slot of an encoded video."""
    return slots_of_encoded(encoded.video, config)


def ensure_frames(
    cache: Cache,
    entry: PrimitivesEntry,
    size_px: int,
    slots: Collection[int],
    *,
    on_progress: OnProgress = lambda done, total: None,
) -> int:
    """Add the RGB pictures of these slots that an entry lacks, decoded from its encoded video, or its source.

    Args:
        cache: where both entries lie.
        entry: the primitives entry.
        size_px: the vision encoder's input size V.
        slots: slots to have.
        on_progress: called with (seconds done, seconds in all).

    Returns:
        How many pictures were added.

    Raises:
        EntryNotFoundError: the encoded video is gone from the cache, or a direct entry's source is gone or changed.
        VideoError, StorageError, CacheCorruptError: decoding or writing failed.
    """
    missing = sorted(set(slots) - Frames(entry, size_px).slots)
    if not missing:
        return 0
    with cache.workspace() as workspace:
        folder = workspace / "part"
        writer = FramesWriter(folder, missing, size_px)
        for rgb in decode_frames(cache, entry, size_px, missing, on_progress=on_progress):
            writer.append(compress(rgb))
        writer.close(entry.manifest.fingerprint, library_versions())
        commit_part(folder, entry.folder, size_px)
    return len(missing)


def decode_frames(
    cache: Cache,
    entry: PrimitivesEntry,
    size_px: int,
    slots: Sequence[int],
    *,
    on_progress: OnProgress = lambda done, total: None,
) -> Iterator[UInt8]:
    """Yield the RGB pictures (V, V, 3) of slots, ascending, decoded from what the entry was made from.

    Raises:
        EntryNotFoundError: the encoded video is gone from the cache, or a direct entry's source is gone or changed.
        VideoError, CacheCorruptError: decoding failed.
    """
    if entry.is_direct:
        yield from _decode_direct(entry, size_px, slots, on_progress)
        return
    encoded = _encoded_of(cache, entry, f"{len(slots)} RGB pictures at {size_px} px")
    fps = encoded.manifest.config["fps"]
    total = encoded.manifest.info["num_frames"] / fps
    all_slots = slots_of_entry(encoded, ExtractConfig.from_dict(entry.manifest.config))
    yield from read_slot_frames(
        encoded.video,
        [all_slots[slot].frame for slot in slots],
        rgb_converter(size_px),
        on_frame=lambda index: on_progress(index / fps, total),
    )


def decode_grid_frame(cache: Cache, primitives: Primitives, slot: int) -> UInt8:
    """Return one slot's picture on the grid, (G, G, 3) uint8 RGB, decoded from what the entry was made from.

    Raises:
        EntryNotFoundError: the encoded video is gone from the cache, or a direct entry's source is gone or changed.
        VideoError, CacheCorruptError: decoding failed.
    """
    entry, grid_px = primitives.entry, primitives.grid_px
    frame = int(primitives.slots.frame[slot])
    if not entry.is_direct:
        video = _encoded_of(cache, entry, "the picture of a slot").video
        return next(read_slot_frames(video, [frame], lambda found: found.picture.to_grid(grid_px, found.colour)))
    stream = read_stream(entry.check_source(), DirectConfig.from_dict(entry.manifest.config).stream)
    starts = primitives.slots.frame[primitives.slots.is_iframe].tolist()
    for found in read_direct_frames(stream, [frame], starts):
        if found.index == frame:
            return stream.orientation.picture(found.picture.to_grid(grid_px, found.colour))
    raise VideoError(f"{stream.path}: frame {frame} cannot be decoded")


def _encoded_of(cache: Cache, entry: PrimitivesEntry, what: str) -> EncodedEntry:
    """Return the encoded video that an entry was made from, checked."""
    encoded = cache.encoded_entry(entry.encoded_name)
    if encoded is None:
        raise EntryNotFoundError(
            f"{entry.name}: cannot decode {what}: the encoded video {entry.encoded_name} is gone from {cache.root}",
            f"Run `cope encode {entry.source_path}` again.",
        )
    encoded.check(hashes=True)
    return encoded


def _decode_direct(
    entry: PrimitivesEntry, size_px: int, slots: Sequence[int], on_progress: OnProgress
) -> Iterator[UInt8]:
    config = DirectConfig.from_dict(entry.manifest.config)
    stream = read_stream(entry.check_source(), config.stream)
    yield from read_direct_rgb(
        stream,
        slots_of_stream(stream, config),
        slots,
        size_px,
        on_frame=lambda index: on_progress(stream.seconds[index], stream.seconds[-1]),
    )
