"""Bytes per slot on disk by layout and codec, measured on the primitives of a cache.

Every variant is lossless; the first variant of each array is the one that the cache uses. Differences are modulo 2**16
or 2**8. Stored RGB frames are compared with decoding them from the encoded video on demand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from benchmarks.shared import measured, new_parser, run_script
from cope_cli.cache.frames import Frames
from cope_cli.cache.primitives import Primitives
from cope_cli.cache.store import Cache
from cope_cli.cli import show
from cope_cli.codec.primitives import read_slot_frames, rgb_converter
from cope_cli.errors import EntryNotFoundError
from cope_cli.types import OnProgress

Array = NDArray[Any]
Layout = Callable[[Array], Array]

_CODECS = {
    "blosc zstd 1, bit shuffle": blosc.Blosc("zstd", 1, blosc.BITSHUFFLE),
    "blosc zstd 5, bit shuffle": blosc.Blosc("zstd", 5, blosc.BITSHUFFLE),
    "blosc zstd 1, byte shuffle": blosc.Blosc("zstd", 1, blosc.SHUFFLE),
    "blosc lz4, bit shuffle": blosc.Blosc("lz4", 5, blosc.BITSHUFFLE),
    "blosc zstd 1, no shuffle": blosc.Blosc("zstd", 1, blosc.NOSHUFFLE),
}


def _minus(axis: int) -> Layout:
    """Return a predictor: each element minus its neighbour before it along an axis."""

    def layout(values: Array) -> Array:
        moved = np.moveaxis(values, axis, 0)
        return np.moveaxis(np.concatenate([moved[:1], moved[1:] - moved[:-1]]), 0, axis)

    return layout


def _planes(values: Array) -> Array:
    return np.moveaxis(values, -1, 0)


def _green_first(values: Array) -> Array:
    red, green, blue = _planes(values)
    return np.stack([green, red - green, blue - green])


_LAYOUTS: dict[str, dict[str, Layout]] = {
    "motion": {
        "as stored": lambda values: values,
        "minus left": _minus(2),
        "minus above": _minus(1),
        "minus above, minus left": lambda values: _minus(2)(_minus(1)(values)),
    },
    "residual": {
        "as stored": lambda values: values,
        "planes": _planes,
        "planes, minus left": lambda values: _minus(2)(_planes(values)),
        "green, red - green, blue - green": _green_first,
    },
    "grid_iframe": {
        "as stored": lambda values: values,
        "planes": _planes,
        "planes, minus above, minus left": lambda values: _minus(2)(_minus(1)(_planes(values))),
    },
}


@dataclass(frozen=True, kw_only=True)
class StorageRecord:
    """One way to store an array, over all slots of the entries.

    Attributes:
        array: motion, residual or grid_iframe.
        layout: how the values are arranged before compression.
        codec: the compressor.
        bytes_per_slot: mean compressed size.
        compress_ms: CPU per slot.
        decompress_ms: CPU per slot, without undoing the layout.
    """

    array: str
    layout: str
    codec: str
    bytes_per_slot: float
    compress_ms: float
    decompress_ms: float


@dataclass(frozen=True, kw_only=True)
class FramesRecord:
    """RGB frames of one entry: stored, or decoded when needed.

    Attributes:
        name: the primitives entry.
        size_px: side V.
        num_frames: pictures compared.
        bytes_per_frame: mean size on the disk.
        primitives_bytes: size of the rest of the entry.
        read_ms: CPU to read a stored frame.
        decode_ms: CPU per frame to decode all of them from the encoded video in one pass.
        decode_one_ms: mean CPU to decode a single frame, starting at its I-frame.
    """

    name: str
    size_px: int
    num_frames: int
    bytes_per_frame: float
    primitives_bytes: int
    read_ms: float
    decode_ms: float
    decode_one_ms: float


def measure_storage(
    cache_root: Path, *, on_progress: OnProgress = lambda done, total: None
) -> tuple[list[StorageRecord], list[FramesRecord]]:
    """Compress every slot of a cache's primitives in every way.

    Args:
        cache_root: the cache folder.
        on_progress: called with (variants done, variants in all).

    Raises:
        EntryNotFoundError: there are no primitives.
    """
    cache = Cache(cache_root)
    entries = [Primitives(entry) for entry in cache.primitives_entries()]
    if not entries:
        raise EntryNotFoundError(f"{cache_root}: no primitives", "Run `cope encode` and `cope extract` first.")
    records: list[StorageRecord] = []
    total = sum(len(layouts) for layouts in _LAYOUTS.values()) * len(_CODECS)
    for name, layouts in _LAYOUTS.items():
        slots = [values for entry in entries for values in _slots_of(entry, name)]
        for layout_name, layout in layouts.items():
            arranged = [np.ascontiguousarray(layout(values)) for values in slots]
            for codec_name, codec in _CODECS.items():
                on_progress(len(records), total)
                records.append(_compress(name, layout_name, codec_name, codec, arranged))
    return records, [record for entry in entries if (record := _frames(cache, entry)) is not None]


def _slots_of(entry: Primitives, array: str) -> list[Array]:
    is_iframe = entry.slots.is_iframe
    wanted = np.flatnonzero(is_iframe if array == "grid_iframe" else ~is_iframe)
    read: Callable[[int], Array] = getattr(entry, array)
    return [read(int(slot)) for slot in wanted]


def _compress(array: str, layout: str, name: str, codec: Any, slots: Sequence[Array]) -> StorageRecord:
    start = time.process_time()
    chunks = [codec.encode(values) for values in slots]
    middle = time.process_time()
    for chunk in chunks:
        codec.decode(chunk)
    end = time.process_time()
    return StorageRecord(
        array=array,
        layout=layout,
        codec=name,
        bytes_per_slot=sum(map(len, chunks)) / len(chunks),
        compress_ms=(middle - start) / len(chunks) * 1000,
        decompress_ms=(end - middle) / len(chunks) * 1000,
    )


def _frames(cache: Cache, primitives: Primitives) -> FramesRecord | None:
    """Compare reading the stored RGB frames with decoding them; None if the entry stores no RGB frames."""
    entry = primitives.entry
    encoded = cache.encoded_entry(entry.encoded_name)
    sizes = sorted(int(path.name) for path in (entry.folder / "frames").glob("*"))
    if encoded is None or not sizes:
        return None
    frames = Frames(entry, sizes[-1])
    slots = sorted(frames.slots)
    at = [int(primitives.slots.frame[slot]) for slot in slots]
    convert = rgb_converter(sizes[-1])
    times = [time.process_time()]
    for slot in slots:
        frames.rgb(slot)
    times.append(time.process_time())
    for _ in read_slot_frames(encoded.video, at, convert):
        pass
    times.append(time.process_time())
    for index in at:
        next(read_slot_frames(encoded.video, [index], convert))
    times.append(time.process_time())
    read_ms, decode_ms, decode_one_ms = (np.diff(times) / len(slots) * 1000).tolist()
    folder = entry.folder / "frames" / str(sizes[-1])
    return FramesRecord(
        name=entry.name,
        size_px=sizes[-1],
        num_frames=len(slots),
        bytes_per_frame=sum(path.stat().st_size for path in folder.rglob("c.*")) / len(slots),
        primitives_bytes=sum(record.size_bytes for record in entry.manifest.files.values()),
        read_ms=read_ms,
        decode_ms=decode_ms,
        decode_one_ms=decode_one_ms,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the size of a slot in every variant."""
    description = "Measure bytes per slot by layout and codec, on the primitives of a cache."
    options = new_parser("storage", description, "cache", has_videos=False).parse_args(arguments)
    records, frames = measured("variants", lambda report: measure_storage(options.cache, on_progress=report))
    if options.json:
        show.print_json({"arrays": records, "frames": frames})
        return
    stored: dict[str, float] = {}
    for record in records:
        stored.setdefault(record.array, record.bytes_per_slot)
    show.print_table(
        "Bytes and CPU ms per slot; the cache uses the first variant of each array",
        ["array", "layout", "codec", "kB", "ratio", "compress", "decompress"],
        [
            (
                r.array,
                r.layout,
                r.codec,
                f"{r.bytes_per_slot / 1000:.1f}",
                f"{r.bytes_per_slot / stored[r.array]:.2f}",
                f"{r.compress_ms:.2f}",
                f"{r.decompress_ms:.2f}",
            )
            for r in records
        ],
    )
    show.print_table(
        "RGB frames stored, or decoded from the encoded video on demand; CPU ms per frame",
        ["entry", "side", "frames", "kB each", "rest of the entry", "read", "decode all", "decode one"],
        [
            (
                r.name,
                str(r.size_px),
                str(r.num_frames),
                f"{r.bytes_per_frame / 1000:.1f}",
                show.as_bytes(r.primitives_bytes),
                f"{r.read_ms:.1f}",
                f"{r.decode_ms:.1f}",
                f"{r.decode_one_ms:.1f}",
            )
            for r in frames
        ],
    )


if __name__ == "__main__":
    run_script(main)
