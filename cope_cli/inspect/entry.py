"""Finding what to show: a video's primitives in the cache, or the stages that make them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache as remembered
from functools import partial
from pathlib import Path
from typing import Any

from cope_cli.cache.store import Cache, EncodedEntry, PrimitivesEntry, matches_source
from cope_cli.config import DirectConfig, EncodeConfig, ExtractConfig
from cope_cli.errors import CopeError, EntryNotFoundError, PathNotFoundError
from cope_cli.files import sha256_file
from cope_cli.stages.direct import extract_direct
from cope_cli.stages.encode import encode_video
from cope_cli.stages.extract import extract_video
from cope_cli.types import OnItem


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
    adaptive: bool = False,
    workers: int = 1,
    on_stage: OnItem = lambda stage, done, total: None,
) -> FoundEntry:
    """Return a video's primitives; stages that are missing for it are run first.

    Args:
        video: a video file, the name of a cache entry, or a source path's end.
        cache: where primitives are, or go.
        fusion_frames: only those of this fusion window; None takes what there is, 30 before others.
        adaptive: that window is of average frames (`--fusion auto`).
        workers: processes that share the stages of a long video; more than one needs a `__main__` guard in scripts.
        on_stage: called while stages run.

    Raises:
        PathNotFoundError: neither a file nor anything in the cache.
        UsageError: a fusion window out of range.
        VideoError, StorageError: a stage failed.
        CacheCorruptError, CacheVersionError: the entry that was named cannot be used.
    """
    window = None if fusion_frames is None else ExtractConfig(fusion_frames=fusion_frames, adaptive=adaptive)
    named = cache.primitives_entry(video) if re.fullmatch(r"[A-Za-z0-9._-]+", video) else None
    if named is not None and _fits(named, window):
        return FoundEntry(entry=named)
    encoded = _encoded_of(video, named, cache)
    of_video = _primitives_of(video, named, encoded, cache)
    found = [entry for entry in of_video if _fits(entry, window)]
    if found:
        return _first_of(found)
    extract = window or ExtractConfig()
    if not encoded and not Path(video).is_file():
        direct = next((entry for entry in of_video if entry.is_direct), None)
        if direct is None:
            raise PathNotFoundError(
                f"{video}: no such file, and {cache.root} holds no entry of that name",
                "`cope cache ls` lists the cache's entries.",
            )
        config = replace(DirectConfig.from_dict(direct.manifest.config), extract=extract)
        made = extract_direct(direct.check_source(), cache, config, on_progress=partial(on_stage, "extract"))
        return _made(made.name, cache, "extract")
    if encoded:
        name = _preferred(encoded).name
    else:
        path = Path(video)
        report = partial(on_stage, "encode")
        name = encode_video(path, cache, EncodeConfig(), workers=workers, on_progress=report).name
    made = extract_video(name, cache, extract, workers=workers, on_progress=partial(on_stage, "extract"))
    return _made(made.name, cache, "extract" if encoded else "encode and extract")


def _made(name: str, cache: Cache, ran: str) -> FoundEntry:
    """Return an entry that stages were just run for."""
    entry = cache.primitives_entry(name)
    assert entry is not None
    return FoundEntry(entry=entry, notes=(f"ran {ran} first: {name}",))


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
    is_content = _content_of(path)
    return [entry for entry in cache.usable_encoded()[0] if is_content(entry.manifest.source)]


def _content_of(path: Path) -> Callable[[Mapping[str, Any]], bool]:
    """Return a test of whether a manifest's source is what a file holds now; the file is hashed once, if at all."""
    path = path.resolve()
    stat = path.stat()
    unchanged = {"path": str(path), "size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    content = remembered(partial(sha256_file, path))

    def is_content(source: Mapping[str, Any]) -> bool:
        if source.get("size_bytes") != stat.st_size:
            return False
        return all(source.get(field) == value for field, value in unchanged.items()) or source["sha256"] == content()

    return is_content


def _primitives_of(
    video: str, named: PrimitivesEntry | None, encoded: list[EncodedEntry], cache: Cache
) -> list[PrimitivesEntry]:
    """Return the usable primitives made of these encoded videos or read directly from the same file.

    For a name, also those whose encoded video is gone.
    """
    upstream = {entry.manifest.fingerprint for entry in encoded}
    is_file = Path(video).is_file()
    is_content = _content_of(Path(video)) if is_file else lambda source: False
    if named is not None and named.is_direct:
        content = named.manifest.source["sha256"]
        is_content = lambda source: source["sha256"] == content  # noqa: E731
    found = []
    for name in cache.primitives_names():
        try:
            entry = cache.primitives_entry(name)
            if entry is None:
                continue
            entry.check()
        except CopeError:
            continue
        is_made_of = is_content(entry.manifest.source) if entry.is_direct else entry.manifest.upstream in upstream
        if is_made_of or (not is_file and matches_source(entry.source_path, video)):
            found.append(entry)
    return found


def _fits(entry: PrimitivesEntry, window: ExtractConfig | None) -> bool:
    return window is None or ExtractConfig.from_dict(entry.manifest.config).window == window.window


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
