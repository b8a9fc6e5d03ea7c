"""Verification: an entry's files and tables, and the identity warp + residual = frame for every pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cope_cli.cache.features import check_features
from cope_cli.cache.frames import check_parts
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.reader import EXTRACT_AGAIN
from cope_cli.cache.store import Cache, PrimitivesEntry
from cope_cli.codec.direct.slots import extract_direct_slots, slots_of_stream
from cope_cli.codec.direct.stream import read_stream
from cope_cli.codec.gop import Slot
from cope_cli.codec.mpeg4.adaptive import slots_of_encoded
from cope_cli.codec.mpeg4.stream import read_gop_spans
from cope_cli.codec.primitives import SlotPrimitives, extract_slots
from cope_cli.config import DirectConfig, ExtractConfig
from cope_cli.errors import CacheCorruptError, CopeError, EntryNotFoundError
from cope_cli.stages.batch import Batch
from cope_cli.types import OnProgress


@dataclass(frozen=True, kw_only=True)
class VerifyRecord:
    """A sound entry, and what was compared.

    Attributes:
        name: the entry's name.
        kind: "encoded" or "primitives".
        num_slots: slots whose grid frame was rebuilt; 0 for an encoded video.
        num_pixels: grid points compared with a fresh decode of the encoded video, or of a direct entry's source.
        num_parts: parts of RGB frames and vision tokens whose hashes were checked.
        is_compared: False if that video is gone, or its source has changed, so the pixels were not compared.
    """

    name: str
    kind: str
    num_slots: int = 0
    num_pixels: int = 0
    num_parts: int = 0
    is_compared: bool = True


def verify_encoded(name: str, cache: Cache) -> VerifyRecord:
    """Check an encoded video's manifest, hash and picture types.

    Raises:
        EntryNotFoundError, CacheVersionError, CacheCorruptError, VideoError: it is not sound.
    """
    entry = cache.encoded_entry(name)
    if entry is None:
        raise EntryNotFoundError(f"{cache.root}: no encoded video {name}")
    entry.check(hashes=True)
    num_frames = sum(span.num_frames for span in read_gop_spans(entry.video))
    if num_frames != entry.manifest.info["num_frames"]:
        raise CacheCorruptError(
            f"{entry.video}: {num_frames} frames found, its manifest says {entry.manifest.info['num_frames']}"
        )
    return VerifyRecord(name=name, kind="encoded")


def verify_primitives(name: str, cache: Cache, *, on_progress: OnProgress = lambda done, total: None) -> VerifyRecord:
    """Check a primitives entry: every byte against the manifest, the tables, and Eq. 1 on every pixel.

    Every slot's grid frame is rebuilt from `grid_iframe`, `motion` and `residual` and must equal the one that a fresh
    decode of the encoded video gives.

    Raises:
        EntryNotFoundError, CacheVersionError, CacheCorruptError, VideoError: it is not sound; array and slot are named.
    """
    entry = cache.primitives_entry(name)
    if entry is None:
        raise EntryNotFoundError(f"{cache.root}: no primitives {name}")
    entry.check(hashes=True)
    num_parts = check_parts(entry, hashes=True) + check_features(entry, hashes=True)
    primitives = Primitives(entry)
    _check_tables(primitives)
    origin = _direct_of(entry) if entry.is_direct else _encoded_of(entry, cache)
    if origin is None:
        num_slots = sum(1 for _ in primitives.grid_frames())
        return VerifyRecord(name=name, kind="primitives", num_slots=num_slots, num_parts=num_parts, is_compared=False)
    _check_slots(primitives, origin)
    fresh = origin.fresh_slots(primitives, on_progress)
    for slot, (decoded, rebuilt) in enumerate(zip(fresh, primitives.grid_frames(), strict=True)):
        if not np.array_equal(decoded.grid_frame, rebuilt):
            wrong = int((decoded.grid_frame != rebuilt).any(axis=-1).sum())
            raise CacheCorruptError(
                f"{name}: slot {slot}: {wrong} of {primitives.grid_px**2} grid points differ from a fresh decode",
                EXTRACT_AGAIN,
            )
        if decoded.codec_residual is not None and not np.array_equal(
            decoded.codec_residual, primitives.codec_residual(slot)
        ):
            raise CacheCorruptError(
                f"{name}: slot {slot}: the codec's residual differs from a fresh decode's", EXTRACT_AGAIN
            )
    num_slots = len(primitives.slots)
    return VerifyRecord(
        name=name,
        kind="primitives",
        num_slots=num_slots,
        num_pixels=num_slots * primitives.grid_px**2,
        num_parts=num_parts,
    )


@dataclass(frozen=True, kw_only=True)
class _Origin:
    """What primitives were made from, and can be made from again.

    Attributes:
        name: for messages.
        slots: the slots that it has.
        seconds: their times.
        num_frames: frames in all.
        make: from the grid side and what to call with each frame's index to the slots' primitives.
    """

    name: str
    slots: list[Slot]
    seconds: list[float]
    num_frames: int
    make: Callable[[int, Callable[[int], None]], Iterator[SlotPrimitives]]

    def fresh_slots(self, primitives: Primitives, on_progress: OnProgress) -> Iterator[SlotPrimitives]:
        """Make every slot again."""
        return self.make(primitives.grid_px, lambda index: on_progress(index, self.num_frames))


def _encoded_of(entry: PrimitivesEntry, cache: Cache) -> _Origin | None:
    """Return the encoded video if it is there and sound; a damaged one is its own entry's failure."""
    try:
        encoded = cache.encoded_entry(entry.encoded_name)
        if encoded is None:
            return None
        encoded.check(hashes=True)
    except CopeError:
        return None
    config, video = ExtractConfig.from_dict(entry.manifest.config), encoded.video
    slots = slots_of_encoded(video, config)
    return _Origin(
        name="the encoded video",
        slots=slots,
        seconds=[slot.frame / encoded.manifest.config["fps"] for slot in slots],
        num_frames=encoded.manifest.info["num_frames"],
        make=lambda grid_px, on_frame: extract_slots(
            video, slots, grid_px, with_codec_residual=config.has_codec_residual, on_frame=on_frame
        ),
    )


def _direct_of(entry: PrimitivesEntry) -> _Origin | None:
    """Return the source file if it is there and unchanged."""
    try:
        path = entry.check_source()
    except EntryNotFoundError:
        return None
    config = DirectConfig.from_dict(entry.manifest.config)
    stream = read_stream(path, config.stream)
    slots = slots_of_stream(stream, config)
    return _Origin(
        name="the source",
        slots=slots,
        seconds=[stream.seconds[slot.frame] for slot in slots],
        num_frames=len(stream.frames),
        make=lambda grid_px, on_frame: extract_direct_slots(stream, slots, grid_px, on_frame=on_frame),
    )


def _check_tables(primitives: Primitives) -> None:
    """Compare the arrays' lengths and kinds with each other and with the manifest."""
    info = primitives.entry.manifest.info
    num_slots, num_iframes = info["num_slots"], info["num_iframe_slots"]
    grid = primitives.grid_px
    expected = {
        "slot_frame": ((num_slots,), "int32"),
        "slot_seconds": ((num_slots,), "float64"),
        "slot_is_iframe": ((num_slots,), "bool"),
        "slot_gop": ((num_slots,), "int32"),
        "motion": ((num_slots - num_iframes, 2, grid, grid), "int16"),
        "residual": ((num_slots - num_iframes, grid, grid, 3), "int16"),
        "grid_iframe": ((num_iframes, grid, grid, 3), "uint8"),
    }
    if primitives.config.adaptive:
        expected["slot_window_frames"] = ((num_slots,), "int32")
    if primitives.has_codec_residual:
        expected["codec_residual"] = expected["residual"]
    for name, wanted in expected.items():
        found = primitives.array_kind(name)
        if found != wanted:
            raise CacheCorruptError(f"{primitives.name}: array {name} is {found}, expected {wanted}", EXTRACT_AGAIN)


def _check_slots(primitives: Primitives, origin: _Origin) -> None:
    """Compare the slot table with the slots that the video has."""
    table = primitives.slots
    rows = zip(table.frame.tolist(), table.gop.tolist(), table.is_iframe.tolist(), strict=True)
    for index, (slot, found) in enumerate(zip(origin.slots, rows, strict=False)):
        wanted = (slot.frame, slot.gop, slot.is_iframe)
        if slot.window_frames != primitives.window_frames(index):
            raise CacheCorruptError(
                f"{primitives.name}: slot {index} has a window of {primitives.window_frames(index)} frames, "
                f"{origin.name} says {slot.window_frames}",
                EXTRACT_AGAIN,
            )
        if found != wanted or table.seconds[index] != origin.seconds[index]:
            raise CacheCorruptError(
                f"{primitives.name}: slot {index} is {found} (frame, GOP, I-frame), {origin.name} says {wanted}",
                EXTRACT_AGAIN,
            )
    if len(table) != len(origin.slots):
        raise CacheCorruptError(
            f"{primitives.name}: {len(table)} slots, {origin.name} has {len(origin.slots)}", EXTRACT_AGAIN
        )


def verify_batch(names: Sequence[str], cache_root: Path, *, workers: int = 0) -> Batch[VerifyRecord]:
    """Prepare the verification of entries.

    Args:
        names: entry names; none means every entry of the cache.
        cache_root: the cache folder.
        workers: processes at a time; 0 means one per core.

    Raises:
        EntryNotFoundError: there is nothing to verify, or no entry of a given name.
    """
    cache = Cache(cache_root)
    known = [*(f"encoded/{name}" for name in cache.encoded_names())]
    known += [f"primitives/{name}" for name in cache.primitives_names()]
    if not known:
        raise EntryNotFoundError(f"{cache_root}: an empty cache", "Run `cope encode PATHS...` first.")
    for name in names:
        if not any(item.endswith(f"/{name}") for item in known):
            raise EntryNotFoundError(f"{cache_root}: no entry {name}", "`cope cache ls` lists them.")
    items = [item for item in known if not names or item.partition("/")[2] in names]
    return Batch(items=items, work=partial(_verify_item, cache_root=cache_root), workers=workers)


def _verify_item(item: str, report: OnProgress, *, cache_root: Path) -> VerifyRecord:
    kind, _, name = item.partition("/")
    if kind == "encoded":
        return verify_encoded(name, Cache(cache_root))
    return verify_primitives(name, Cache(cache_root), on_progress=report)
