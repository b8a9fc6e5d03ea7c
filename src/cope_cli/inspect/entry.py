"""Finding what is to be looked at: a video's primitives in the cache, or the stages that make them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cope_cli.cache.store import Cache, EncodedEntry, PrimitivesEntry, matches_source
from cope_cli.config import EncodeConfig, ExtractConfig
from cope_cli.errors import CopeError, EntryNotFoundError, PathNotFoundError
from cope_cli.files import sha256_file
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video

#: Called with (stage, seconds done, seconds in all) while a stage runs.
OnStage = Callable[[str, float, float], None]


@dataclass(frozen=True, kw_only=True)
class FoundEntry:
    """The primitives to look at, and what whoever looks should know about the choice."""

    entry: PrimitivesEntry
    notes: tuple[str, ...] = ()


def find_entry(
    video: str,
    cache: Cache,
    *,
    fusion_frames: int | None = None,
    workers: int = 1,
    on_stage: OnStage = lambda stage, done, total: None,
) -> FoundEntry:
    """Return a video's primitives; stages that are missing for it are run first.

    Args:
        video: a video file, the name of a cache entry, or a source path's end.
        cache: where primitives are, or go.
        fusion_frames: only those of this fusion window; None takes what there is, 30 before others.
        workers: processes that share the stages of a long video; more than one needs a `__main__` guard in scripts.
        on_stage: called while stages run.

    Raises:
        PathNotFoundError: neither a file nor anything in the cache.
        UsageError: a fusion window out of range.
        VideoError, StorageError: a stage failed.
        CacheCorruptError, CacheVersionError: the entry that was named cannot be used.
    """
    extract = ExtractConfig() if fusion_frames is None else ExtractConfig(fusion_frames=fusion_frames)
    named = cache.primitives_entry(video) if re.fullmatch(r"[A-Za-z0-9._-]+", video) else None
    if named is not None and fusion_frames in (None, named.manifest.config.get("fusion_frames")):
        return FoundEntry(entry=named)
    encoded = _encoded_of(video, named, cache)
    found = [entry for entry in _primitives_of(video, encoded, cache) if _fits(entry, fusion_frames)]
    if found:
        return _first_of(found)
    if not encoded and not Path(video).is_file():
        raise PathNotFoundError(
            f"{video}: no such file, and {cache.root} holds no entry of that name",
            "`cope cache ls` lists the cache's entries.",
        )
    ran = ["extract"] if encoded else ["encode", "extract"]
    if encoded:
        name = _preferred(encoded).name
    else:
        path = Path(video)
        report = partial(on_stage, "encode")
        name = encode_video(path, cache, EncodeConfig(), workers=workers, on_progress=report).name
    made = extract_video(name, cache, extract, workers=workers, on_progress=partial(on_stage, "extract"))
    entry = cache.primitives_entry(made.name)
    assert entry is not None
    return FoundEntry(entry=entry, notes=(f"ran {' and '.join(ran)} first: {entry.name}",))


def _encoded_of(video: str, named: PrimitivesEntry | None, cache: Cache) -> list[EncodedEntry]:
    """Return the encoded entries of a video; of a file, only those made of its present content."""
    if named is not None:
        return [e for e in cache.usable_encoded()[0] if e.manifest.fingerprint == named.manifest.upstream]
    path = Path(video)
    if not path.is_file():
        try:
            return cache.find_encoded(video)
        except EntryNotFoundError:
            return []
    path, content = path.resolve(), ""
    stat = path.stat()
    unchanged = {"path": str(path), "size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    found = []
    for entry in cache.usable_encoded()[0]:
        source = entry.manifest.source
        if source.get("size_bytes") != stat.st_size:
            continue
        if any(source.get(field) != value for field, value in unchanged.items()):
            content = content or sha256_file(path)
            if source.get("sha256") != content:
                continue
        found.append(entry)
    return found


def _primitives_of(video: str, encoded: list[EncodedEntry], cache: Cache) -> list[PrimitivesEntry]:
    """Return the usable primitives made of these encoded videos; of a name, also those whose encoded video is gone."""
    upstream = {entry.manifest.fingerprint for entry in encoded}
    is_file = Path(video).is_file()
    found = []
    for name in cache.primitives_names():
        try:
            entry = cache.primitives_entry(name)
            if entry is None:
                continue
            entry.check()
        except CopeError:
            continue
        if entry.manifest.upstream in upstream or (not is_file and matches_source(entry.source_path, video)):
            found.append(entry)
    return found


def _fits(entry: PrimitivesEntry, fusion_frames: int | None) -> bool:
    return fusion_frames is None or entry.manifest.config.get("fusion_frames") == fusion_frames


def _first_of(found: list[PrimitivesEntry]) -> FoundEntry:
    """Choose the entry nearest to the defaults, and name the others."""
    default = ExtractConfig().to_dict()
    encode_default = EncodeConfig().to_dict()

    def rank(entry: PrimitivesEntry) -> tuple[bool, bool, bool, str]:
        config = entry.manifest.config
        return (
            config.get("fusion_frames") != default["fusion_frames"],
            config != default,
            entry.manifest.source.get("config") != encode_default,
            entry.name,
        )

    first, *others = sorted(found, key=rank)
    if not others:
        return FoundEntry(entry=first)
    names = ", ".join(entry.name for entry in others)
    return FoundEntry(entry=first, notes=(f"shown: {first.name}; the cache also holds {names}",))


def _preferred(encoded: list[EncodedEntry]) -> EncodedEntry:
    default = EncodeConfig().to_dict()
    return min(encoded, key=lambda entry: (entry.manifest.config != default, entry.name))
