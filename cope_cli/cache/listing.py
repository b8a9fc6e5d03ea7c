"""One line for each entry of a cache, usable or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cope_cli.cache.prune import tree_bytes
from cope_cli.cache.store import Cache
from cope_cli.config import ExtractConfig
from cope_cli.errors import CopeError


@dataclass(frozen=True, kw_only=True)
class Listing:
    """One entry: what it holds, which sizes of RGB slots and stored vision tokens, and its bytes on disk."""

    name: str
    kind: str
    summary: str
    frames: str
    size_bytes: int


def list_cache(root: Path) -> list[Listing]:
    """Describe every entry from its manifest; one that cannot be used says why."""
    cache = Cache(root)
    return [_encoded(cache, name) for name in cache.encoded_names()] + [
        _primitives(cache, name) for name in cache.primitives_names()
    ]


def _encoded(cache: Cache, name: str) -> Listing:
    try:
        entry = cache.encoded_entry(name)
        assert entry is not None
        info, config = entry.manifest.info, entry.manifest.config
        summary = f"{info['width_px']}x{info['height_px']}, {info['num_frames']} frames, GOP {config['gop_frames']}"
    except CopeError as error:
        summary = error.message
    size = tree_bytes(cache.encoded_folder / f"{name}.mp4")
    return Listing(name=name, kind="encoded", summary=summary, frames="", size_bytes=size)


def _primitives(cache: Cache, name: str) -> Listing:
    folder = cache.primitives_folder / f"{name}.zarr"
    try:
        entry = cache.primitives_entry(name)
        assert entry is not None
        info, config = entry.manifest.info, ExtractConfig.from_dict(entry.manifest.config)
        way = f", direct from {info['codec']}" if entry.is_direct else ""
        summary = f"{info['num_slots']} slots, s {config.window}, grid {config.grid_px}{way}"
    except CopeError as error:
        summary = error.message
    sizes = ", ".join(
        [
            *(f"{path.name} px" for path in sorted((folder / "frames").glob("*"))),
            *(f"tokens {path.name}" for path in sorted((folder / "features").glob("*"))),
        ]
    )
    return Listing(name=name, kind="primitives", summary=summary, frames=sizes, size_bytes=tree_bytes(folder))
