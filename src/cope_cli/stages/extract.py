"""Stage 2: an encoded video becomes fused primitives in the cache."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cope_cli.cache.frames import Frames, FramesWriter, commit_part, parts_folder
from cope_cli.cache.manifest import Manifest, fingerprint, record_tree
from cope_cli.cache.primitives import PrimitivesWriter
from cope_cli.cache.store import MANIFEST, Cache, EncodedEntry, PrimitivesEntry, entry_name
from cope_cli.cache.temporary import commit_folder
from cope_cli.codec.fusion import FrameSize
from cope_cli.codec.gop import Slot, keyframe_slots, slots_of
from cope_cli.codec.primitives import extract_slots, read_slot_frames, rgb_converter
from cope_cli.codec.stream import read_gop_spans
from cope_cli.codec.versions import library_versions
from cope_cli.config import PRIMITIVES_SCHEMA, ExtractConfig
from cope_cli.errors import CopeError, EntryNotFoundError, UsageError
from cope_cli.stages.batch import Batch

OnProgress = Callable[[float, float], None]


@dataclass(frozen=True, kw_only=True)
class FramesRequest:
    """Which slots to keep as RGB for a vision encoder.

    Attributes:
        size_px: the vision encoder's input size V.
        keyframes_per_gop: those of K keyframes per GOP; 0 means every slot.
    """

    size_px: int = 384
    keyframes_per_gop: int = 4

    def __post_init__(self) -> None:
        if not 16 <= self.size_px <= 2048:
            raise UsageError(f"--frame-size {self.size_px}: expected 16 to 2048 pixels")
        if self.keyframes_per_gop < 0:
            raise UsageError(f"--store-frames {self.keyframes_per_gop}: expected a number of keyframes per GOP, or all")

    @classmethod
    def parse(cls, text: str, size_px: int) -> FramesRequest | None:
        """Read the value of `--store-frames`: a number of keyframes per GOP, `all`, or `none`."""
        if text == "none":
            return None
        if text != "all" and not text.isdecimal():
            raise UsageError(f"--store-frames {text}: expected a number of keyframes per GOP, all or none")
        if text == "0":
            raise UsageError("--store-frames 0: expected at least 1, or none")
        return cls(size_px=size_px, keyframes_per_gop=0 if text == "all" else int(text))

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


@dataclass(frozen=True, kw_only=True)
class ExtractRecord:
    """What became of one video.

    Attributes:
        name: the entry's name in the cache.
        encoded: the encoded entry it was made from.
        is_new: False if a finished entry was found.
        num_slots: slots S.
        num_iframe_slots: of them I-frame slots.
        size_bytes: size of motion, residual, grid frames and tables.
        num_frames_added: RGB pictures stored in this call.
    """

    name: str
    encoded: str
    is_new: bool
    num_slots: int
    num_iframe_slots: int
    size_bytes: int
    num_frames_added: int


def extract_video(
    encoded_name: str,
    cache: Cache,
    config: ExtractConfig,
    *,
    frames: FramesRequest | None = None,
    force: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> ExtractRecord:
    """Extract one encoded video's primitives into the cache, unless a finished entry is there.

    Args:
        encoded_name: name of the encoded entry.
        cache: where it lies and the primitives go.
        config: fusion window, grid, tail.
        frames: RGB slots to store as well; they are added to a finished entry that lacks them.
        force: extract in any case.
        on_progress: called with (seconds done, seconds in all).

    Raises:
        EntryNotFoundError, CacheCorruptError, CacheVersionError: the encoded entry is missing or cannot be used.
        VideoError: it cannot be decoded.
        StorageError: the cache cannot be written.
    """
    encoded = cache.encoded_entry(encoded_name)
    if encoded is None:
        raise EntryNotFoundError(f"{cache.root}: no encoded video {encoded_name}", "Run `cope encode` first.")
    encoded.check(hashes=True)
    key = fingerprint("extract", PRIMITIVES_SCHEMA, encoded.content_sha256, config.to_dict())
    name = entry_name(encoded.source_path.stem, key)
    entry = None if force else _finished(cache, name)
    num_added = 0
    is_new = entry is None
    if entry is None:
        entry, num_added = _make_entry(encoded, name, key, cache, config, frames, force, on_progress)
    elif frames is not None:
        wanted = frames.slots(_slot_gops(encoded, config))
        num_added = ensure_frames(cache, entry, frames.size_px, wanted, on_progress=on_progress)
    info = entry.manifest.info
    return ExtractRecord(
        name=name,
        encoded=encoded_name,
        is_new=is_new,
        num_slots=info["num_slots"],
        num_iframe_slots=info["num_iframe_slots"],
        size_bytes=sum(record.size_bytes for record in entry.manifest.files.values()),
        num_frames_added=num_added,
    )


def _slots(encoded: EncodedEntry, config: ExtractConfig) -> list[Slot]:
    return slots_of(read_gop_spans(encoded.video), config.fusion_frames, keep_tail=config.keep_tail)


def _slot_gops(encoded: EncodedEntry, config: ExtractConfig) -> list[int]:
    return [slot.gop for slot in _slots(encoded, config)]


def _finished(cache: Cache, name: str) -> PrimitivesEntry | None:
    """Return a usable entry; one that is damaged counts as missing and is made again."""
    try:
        entry = cache.primitives_entry(name)
        if entry is not None:
            entry.check()
    except CopeError:
        return None
    return entry


def _make_entry(
    encoded: EncodedEntry,
    name: str,
    key: str,
    cache: Cache,
    config: ExtractConfig,
    frames: FramesRequest | None,
    force: bool,
    on_progress: OnProgress,
) -> tuple[PrimitivesEntry, int]:
    """Write a new entry; returns it and how many RGB pictures it holds."""
    slots = _slots(encoded, config)
    stored = [] if frames is None else frames.slots([slot.gop for slot in slots])
    info = encoded.manifest.info
    size = FrameSize(width=info["width_px"], height=info["height_px"])
    fps = encoded.manifest.config["fps"]
    num_frames = info["num_frames"]
    target = cache.primitives_folder / f"{name}.zarr"
    with cache.workspace() as workspace:
        folder = workspace / "entry"
        writer = PrimitivesWriter(folder, slots, config.grid_px, size, fps)
        frames_writer = None
        if frames is not None and stored:
            part = parts_folder(folder, frames.size_px) / "part-0"
            part.parent.mkdir(parents=True)
            frames_writer = FramesWriter(part, stored, frames.size_px)
        for slot in extract_slots(
            encoded.video,
            slots,
            config.grid_px,
            rgb_frames={slots[index].frame for index in stored},
            rgb_size_px=frames.size_px if frames is not None else 0,
            on_frame=lambda index: on_progress(index / fps, num_frames / fps),
        ):
            writer.append(slot)
            if frames_writer is not None and slot.rgb is not None:
                frames_writer.append(slot.rgb)
        writer.close()
        if frames_writer is not None:
            frames_writer.close(key, library_versions())
        manifest = _manifest(encoded, key, config, slots, folder)
        manifest.write(folder / MANIFEST)
        is_ours = commit_folder(folder, target, replace=force or _finished(cache, name) is None)
    entry = PrimitivesEntry(name=name, folder=target, manifest=manifest)
    if is_ours or frames is None:
        return entry, len(stored)
    # Another process was faster, and may have been asked for other RGB slots.
    return entry, ensure_frames(cache, entry, frames.size_px, stored)


def _manifest(encoded: EncodedEntry, key: str, config: ExtractConfig, slots: Sequence[Slot], folder: Path) -> Manifest:
    num_iframes = sum(slot.is_iframe for slot in slots)
    files = {path: record for path, record in record_tree(folder).items() if not path.startswith("frames/")}
    return Manifest(
        kind="primitives",
        schema=PRIMITIVES_SCHEMA,
        fingerprint=key,
        upstream=encoded.manifest.fingerprint,
        source={
            "entry": encoded.name,
            "sha256": encoded.content_sha256,
            "path": encoded.manifest.source["path"],
            "config": encoded.manifest.config,
        },
        config=config.to_dict(),
        info={
            "num_slots": len(slots),
            "num_iframe_slots": num_iframes,
            "num_gops": num_iframes,
            "num_frames": encoded.manifest.info["num_frames"],
            "width_px": encoded.manifest.info["width_px"],
            "height_px": encoded.manifest.info["height_px"],
        },
        versions=library_versions(),
        files=files,
    )


def ensure_frames(
    cache: Cache,
    entry: PrimitivesEntry,
    size_px: int,
    slots: Collection[int],
    *,
    on_progress: OnProgress = lambda done, total: None,
) -> int:
    """Add the RGB pictures of these slots that an entry lacks, decoded from its encoded video.

    Args:
        cache: where both entries lie.
        entry: the primitives entry.
        size_px: the vision encoder's input size V.
        slots: slots to have.
        on_progress: called with (seconds done, seconds in all).

    Returns:
        How many pictures were added.

    Raises:
        EntryNotFoundError: the encoded video is gone from the cache.
        VideoError, StorageError, CacheCorruptError: decoding or writing failed.
    """
    missing = sorted(set(slots) - Frames(entry, size_px).slots)
    if not missing:
        return 0
    encoded = cache.encoded_entry(entry.encoded_name)
    if encoded is None:
        raise EntryNotFoundError(
            f"{entry.name}: {len(missing)} RGB pictures at {size_px} px are not stored, and the encoded video "
            f"{entry.encoded_name} is gone from {cache.root}",
            f"Run `cope encode {entry.source_path}` again.",
        )
    encoded.check(hashes=True)
    fps = encoded.manifest.config["fps"]
    total = encoded.manifest.info["num_frames"] / fps
    all_slots = _slots(encoded, ExtractConfig(**entry.manifest.config))
    with cache.workspace() as workspace:
        folder = workspace / "part"
        writer = FramesWriter(folder, missing, size_px)
        for rgb in read_slot_frames(
            encoded.video,
            [all_slots[slot].frame for slot in missing],
            rgb_converter(size_px),
            on_frame=lambda index: on_progress(index / fps, total),
        ):
            writer.append(rgb)
        writer.close(entry.manifest.fingerprint, library_versions())
        commit_part(folder, entry.folder, size_px)
    return len(missing)


def extract_batch(
    videos: Sequence[str],
    cache_root: Path,
    config: ExtractConfig,
    *,
    frames: FramesRequest | None = None,
    workers: int = 0,
    force: bool = False,
) -> Batch[ExtractRecord]:
    """Prepare the extraction of encoded videos.

    Args:
        videos: entry names, source paths or the ends of those; none means every encoded video of the cache.
        cache_root: the cache folder.
        config: fusion window, grid, tail.
        frames: RGB slots to store as well.
        workers: processes at a time; 0 means one per core.
        force: extract also what is done.

    Raises:
        EntryNotFoundError: the cache holds no encoded video at all.
    """
    cache = Cache(cache_root)
    cache.clean()
    errors: dict[str, CopeError] = {}
    if videos:
        names: dict[str, None] = {}
        for video in videos:
            try:
                names |= {entry.name: None for entry in cache.find_encoded(video)}
            except CopeError as error:
                errors[video] = error
    else:
        entries, errors = cache.usable_encoded()
        names = {entry.name: None for entry in entries}
        if not names and not errors:
            raise EntryNotFoundError(
                f"{cache_root}: no encoded video in this cache", "Run `cope encode PATHS...` first."
            )
    work = partial(_extract_item, cache_root=cache_root, config=config, frames=frames, force=force)
    return Batch(items=list(names), work=work, workers=workers, errors=errors)


def _extract_item(
    item: str,
    report: OnProgress,
    *,
    cache_root: Path,
    config: ExtractConfig,
    frames: FramesRequest | None,
    force: bool,
) -> ExtractRecord:
    return extract_video(item, Cache(cache_root), config, frames=frames, force=force, on_progress=report)
