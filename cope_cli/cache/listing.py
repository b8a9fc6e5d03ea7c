"""What a cache holds, entry by entry, usable or not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cope_cli.cache.store import MANIFEST, Cache, EncodedEntry, PrimitivesEntry
from cope_cli.config import ExtractConfig
from cope_cli.errors import CopeError
from cope_cli.files import tree_bytes


@dataclass(frozen=True, kw_only=True)
class Listing:
    """One entry of a cache.

    Attributes:
        name: the entry's name.
        kind: "encoded" or "primitives".
        source: path of the source video; "" if the entry cannot be read.
        encoded_name: the encoded entry that it is, or was made from; "" for primitives read directly.
        summary: what it holds, or the error of an entry that cannot be used.
        frames: sizes of the stored RGB slots and the stored vision tokens, such as "384 px".
        size_bytes: size on disk.
        made: time of writing, ISO 8601 in UTC.
    """

    name: str
    kind: str
    source: str
    encoded_name: str
    summary: str
    frames: str
    size_bytes: int
    made: str


def list_cache(root: Path) -> list[Listing]:
    """Describe every entry from its manifest; the summary of an unusable entry is its error."""
    cache = Cache(root)
    return [_encoded(cache, name) for name in cache.encoded_names()] + [
        _primitives(cache, name) for name in cache.primitives_names()
    ]


def _encoded(cache: Cache, name: str) -> Listing:
    entry: EncodedEntry | None = None
    try:
        entry = cache.encoded_entry(name)
        assert entry is not None
        info, config = entry.manifest.info, entry.manifest.config
        summary = f"{info['width_px']}x{info['height_px']}, {info['num_frames']} frames, GOP {config['gop_frames']}"
    except CopeError as error:
        summary = error.message
    return Listing(
        name=name,
        kind="encoded",
        source=str(entry.source_path) if entry is not None else "",
        encoded_name=name,
        summary=summary,
        frames="",
        size_bytes=tree_bytes(cache.encoded_folder / f"{name}.mp4"),
        made=_time_of(cache.encoded_folder / f"{name}.json"),
    )


def _primitives(cache: Cache, name: str) -> Listing:
    folder = cache.primitives_folder / f"{name}.zarr"
    entry: PrimitivesEntry | None = None
    try:
        entry = cache.primitives_entry(name)
        assert entry is not None
        info, config = entry.manifest.info, ExtractConfig.from_dict(entry.manifest.config)
        way = f", direct from {info['codec']}" if entry.is_direct else ""
        summary = f"{info['num_slots']} slots, s {config.window}, grid {config.grid_px}{way}"
    except CopeError as error:
        summary = error.message
    sizes = [
        *(f"{path.name} px" for path in sorted((folder / "frames").glob("*"))),
        *(f"tokens {path.name}" for path in sorted((folder / "features").glob("*"))),
    ]
    return Listing(
        name=name,
        kind="primitives",
        source=str(entry.source_path) if entry is not None else "",
        encoded_name="" if entry is None or entry.is_direct else entry.encoded_name,
        summary=summary,
        frames=", ".join(sizes),
        size_bytes=tree_bytes(folder),
        made=_time_of(folder / MANIFEST),
    )


def _time_of(path: Path) -> str:
    """Return when a file was written, to the second; "" if it is gone."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    except OSError:
        return ""
