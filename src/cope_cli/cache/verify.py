"""Is an entry sound: its files, its tables, and the identity warp + residual = frame on every pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from cope_cli.cache.features import check_features
from cope_cli.cache.frames import check_parts
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache, EncodedEntry, PrimitivesEntry
from cope_cli.codec.gop import slots_of
from cope_cli.codec.primitives import SlotPrimitives, extract_slots
from cope_cli.codec.stream import read_gop_spans
from cope_cli.errors import CacheCorruptError, CopeError, EntryNotFoundError

OnProgress = Callable[[float, float], None]
_AGAIN = "Run `cope extract --force` for this video."


@dataclass(frozen=True, kw_only=True)
class VerifyRecord:
    """What was found sound in one entry.

    Attributes:
        name: the entry's name.
        kind: "encoded" or "primitives".
        num_slots: slots whose grid frame was rebuilt; 0 for an encoded video.
        num_pixels: grid points compared with a fresh decode of the encoded video.
        num_parts: parts of RGB frames and vision tokens whose hashes were checked.
        is_compared: False if the encoded video is gone, so that there was nothing to compare with.
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
    encoded = _encoded_of(entry, cache)
    if encoded is None:
        num_slots = sum(1 for _ in primitives.grid_frames())
        return VerifyRecord(name=name, kind="primitives", num_slots=num_slots, num_parts=num_parts, is_compared=False)
    _check_slots(primitives, encoded)
    fresh = _fresh_slots(primitives, encoded, on_progress)
    for slot, (decoded, rebuilt) in enumerate(zip(fresh, primitives.grid_frames(), strict=True)):
        if not np.array_equal(decoded.grid_frame, rebuilt):
            wrong = int((decoded.grid_frame != rebuilt).any(axis=-1).sum())
            raise CacheCorruptError(
                f"{name}: slot {slot}: {wrong} of {primitives.grid_px**2} grid points differ from a fresh decode",
                _AGAIN,
            )
        if decoded.codec_residual is not None and not np.array_equal(
            decoded.codec_residual, primitives.codec_residual(slot)
        ):
            raise CacheCorruptError(f"{name}: slot {slot}: the codec's residual differs from a fresh decode's", _AGAIN)
    num_slots = len(primitives.slots)
    return VerifyRecord(
        name=name,
        kind="primitives",
        num_slots=num_slots,
        num_pixels=num_slots * primitives.grid_px**2,
        num_parts=num_parts,
    )


def _fresh_slots(primitives: Primitives, encoded: EncodedEntry, on_progress: OnProgress) -> Iterator[SlotPrimitives]:
    """Make every slot again from the encoded video."""
    config = primitives.config
    return extract_slots(
        encoded.video,
        slots_of(read_gop_spans(encoded.video), config.fusion_frames, keep_tail=config.keep_tail),
        config.grid_px,
        with_codec_residual=config.has_codec_residual,
        on_frame=lambda index: on_progress(index, encoded.manifest.info["num_frames"]),
    )


def _encoded_of(entry: PrimitivesEntry, cache: Cache) -> EncodedEntry | None:
    """Return the encoded video if it is there and sound; a damaged one is its own entry's failure."""
    try:
        encoded = cache.encoded_entry(entry.encoded_name)
        if encoded is not None:
            encoded.check(hashes=True)
    except CopeError:
        return None
    return encoded


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
    if primitives.config.has_codec_residual:
        expected["codec_residual"] = expected["residual"]
    for name, wanted in expected.items():
        found = primitives.array_kind(name)
        if found != wanted:
            raise CacheCorruptError(f"{primitives.name}: array {name} is {found}, expected {wanted}", _AGAIN)


def _check_slots(primitives: Primitives, encoded: EncodedEntry) -> None:
    """Compare the slot table with the encoded video's picture types."""
    config = primitives.config
    expected = slots_of(read_gop_spans(encoded.video), config.fusion_frames, keep_tail=config.keep_tail)
    table = primitives.slots
    rows = zip(table.frame.tolist(), table.gop.tolist(), table.is_iframe.tolist(), strict=True)
    for index, (slot, found) in enumerate(zip(expected, rows, strict=False)):
        wanted = (slot.frame, slot.gop, slot.is_iframe)
        if found != wanted or table.seconds[index] != slot.frame / primitives.fps:
            raise CacheCorruptError(
                f"{primitives.name}: slot {index} is {found} (frame, GOP, I-frame), the encoded video says {wanted}",
                _AGAIN,
            )
    if len(table) != len(expected):
        raise CacheCorruptError(f"{primitives.name}: {len(table)} slots, the encoded video has {len(expected)}", _AGAIN)
