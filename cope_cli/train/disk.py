"""What the cache takes on disk for a data set: means over a cache that is named, or sizes before compression."""

from __future__ import annotations

from dataclasses import dataclass

from cope_cli.cache.frames import Frames, parts_folder
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache, PrimitivesEntry
from cope_cli.files import tree_bytes
from cope_cli.model.sizes.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class DataScale:
    """A data set by its numbers.

    Attributes:
        num_videos: videos.
        video_seconds: their mean length.
        fusion_frames: fusion window s.
        grid_px: the primitives' grid.
        keyframes: K.
        num_iframe_slots: of one video.
        num_p_slots: of one video.
        num_keyframes: of one video.
    """

    num_videos: int
    video_seconds: float
    fusion_frames: int
    grid_px: int
    keyframes: int
    num_iframe_slots: int
    num_p_slots: int
    num_keyframes: int


@dataclass(frozen=True, kw_only=True)
class DiskRow:
    """What one part of the cache takes.

    Attributes:
        part: what it is.
        needed_by: who reads it.
        num: how many per video: seconds of video, slots, RGB slots.
        unit: of what.
        unit_bytes: one takes so much.
        total_bytes: of all videos.
        is_measured: mean over a cache; otherwise the size before compression.
    """

    part: str
    needed_by: str
    num: float
    unit: str
    unit_bytes: float
    total_bytes: float
    is_measured: bool


def disk_rows(data: DataScale, geometry: Geometry, cache: Cache | None) -> list[DiskRow]:
    """Return what the cache takes of a model's data.

    Args:
        data: the videos and their slots.
        geometry: of the model.
        cache: where compressed sizes are measured; None for sizes before compression.
    """
    num_i, num_p = data.num_iframe_slots, data.num_p_slots
    num_slots, side = num_i + num_p, geometry.image_px
    measured = _Measured.of(cache, data, side) if cache is not None else _Measured()
    grid_values = data.grid_px**2
    raw_slot = (num_p * (2 + 3) * 2 + num_i * 3) * grid_values / num_slots  # int16 motion and residual, uint8 pictures
    raw_frame = 3 * side**2
    tokens = 2 * geometry.num_patches * geometry.vision_width  # bfloat16, as good as incompressible
    rows = []
    parts = [
        ("encoded video", "extract", data.video_seconds, "second", measured.encoded_second, None),
        ("primitives", "both", num_slots, "slot", measured.primitives_slot, raw_slot),
        (f"RGB slots, K = {data.keyframes}", "finetune", data.num_keyframes, "RGB slot", measured.frame, raw_frame),
        ("RGB slots, all", "pretrain", num_slots, "RGB slot", measured.frame, raw_frame),
        ("or vision tokens", "pretrain --store-features", num_slots, "slot", None, tokens),
    ]
    for part, needed_by, count, unit, found, raw in parts:
        if found is None and raw is None:
            continue
        unit_bytes = raw if found is None else found
        assert unit_bytes is not None
        rows.append(
            DiskRow(
                part=part,
                needed_by=needed_by,
                num=count,
                unit=unit,
                unit_bytes=unit_bytes,
                total_bytes=unit_bytes * count * data.num_videos,
                is_measured=found is not None,
            )
        )
    return rows


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Mean sizes over a cache, bytes; None where it has none of it."""

    encoded_second: float | None = None
    primitives_slot: float | None = None
    frame: float | None = None

    @classmethod
    def of(cls, cache: Cache, data: DataScale, size_px: int) -> _Measured:
        """Look at all entries of this fusion window and grid."""
        entries = [
            entry
            for entry in cache.primitives_entries()
            if (entry.manifest.config["fusion_frames"], entry.manifest.config["grid_px"])
            == (data.fusion_frames, data.grid_px)
        ]
        videos = [encoded for entry in entries if (encoded := cache.encoded_entry(entry.encoded_name)) is not None]
        seconds = sum(video.manifest.info["num_frames"] / video.manifest.config["fps"] for video in videos)
        slots = sum(len(Primitives(entry).slots) for entry in entries)
        frames = sum(len(Frames(entry, size_px).slots) for entry in entries)
        return cls(
            encoded_second=_mean(sum(video.video.stat().st_size for video in videos), seconds),
            primitives_slot=_mean(sum(_size(entry) for entry in entries), slots),
            frame=_mean(sum(tree_bytes(parts_folder(entry.folder, size_px)) for entry in entries), frames),
        )


def _size(entry: PrimitivesEntry) -> int:
    """Bytes of an entry's own files, without side groups."""
    return sum(record.size_bytes for record in entry.manifest.files.values())


def _mean(total: float, num: float) -> float | None:
    return total / num if num else None
