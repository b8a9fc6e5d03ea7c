"""The data stages from Python: open a video, look into a cache, encode and extract many videos."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from cope_cli.cache.store import Cache as Store
from cope_cli.cache.store import PrimitivesEntry, cache_folder, matches_source
from cope_cli.config import DirectConfig, EncodeConfig, ExtractConfig, parse_fusion
from cope_cli.errors import CopeError, EntryNotFoundError, PathNotFoundError, UsageError
from cope_cli.stages.batch import Batch
from cope_cli.stages.direct import extract_direct, known_sources
from cope_cli.stages.encode import EncodeRecord, encode_batch, encode_video
from cope_cli.stages.extract import ExtractRecord, extract_batch, extract_video
from cope_cli.video import Video

Record = TypeVar("Record")


class Cache(Mapping[str, Video]):
    """The videos of a cache whose primitives are extracted, by name.

    `cache["clip"]` takes the name of a video or of an entry (`clip-1a2b3c4d`), or the path of a source video. Iterating
    yields the names of all entries.

    Args:
        folder: the cache folder (default: `COPE_CACHE`, or `cope_cache`); `~` is expanded.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.store = Store(cache_folder(folder))

    def __repr__(self) -> str:
        return f"Cache({str(self.store.root)!r}: {len(self)} extracted videos)"

    def __iter__(self) -> Iterator[str]:
        return iter(self.store.primitives_names())

    def __len__(self) -> int:
        return len(self.store.primitives_names())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.named(name))

    def __getitem__(self, name: str) -> Video:
        """Return a video.

        Raises:
            EntryNotFoundError: a KeyError: there is no such video; the message lists similar names.
            UsageError: several entries have that name; the message lists them.
            CacheCorruptError, CacheVersionError: the entry cannot be used.
        """
        found = self.named(name)
        if not found:
            known = sorted({*self, *(_video_name(entry) for entry in self)})
            near = difflib.get_close_matches(name, known, cutoff=0.4)
            shown = f"similar names: {', '.join(near)}" if near else f"it holds {', '.join(self) or 'nothing'}"
            raise EntryNotFoundError(
                f"{self.store.root}: no extracted video {name!r}; {shown}",
                f"`cope cache ls --cache {self.store.root}` lists all; cope.open(PATH) adds a video.",
            )
        return Video(_only(found, name), self.store)

    def named(self, name: str) -> list[PrimitivesEntry]:
        """Return the entries of a name: the one of exactly that name, or those of a video of that name or path."""
        if name in self.store.primitives_names():
            exact = self.store.primitives_entry(name)
            return [] if exact is None else [exact]
        entries = self.store.primitives_entries()
        return [entry for entry in entries if _video_name(entry.name) == name or _is_source(entry, name)]


def _video_name(entry_name: str) -> str:
    """Return an entry's name without its key."""
    return entry_name.rpartition("-")[0]


def _is_source(entry: PrimitivesEntry, name: str) -> bool:
    return "." in name and matches_source(entry.source_path, str(Path(name).expanduser()))


def _only(found: list[PrimitivesEntry], name: str) -> PrimitivesEntry:
    """Return the only entry, or name all."""
    if len(found) > 1:
        listed = ", ".join(f"{entry.name} ({_settings(entry)})" for entry in found)
        raise UsageError(f"{name!r}: expected one entry, found {len(found)}: {listed}", "Use the name of one entry.")
    return found[0]


def _settings(entry: PrimitivesEntry) -> str:
    config = ExtractConfig.from_dict(entry.manifest.config)
    return f"fusion {config.window}, grid {config.grid_px}, {entry.way}"


def open_video(
    video: str | Path,
    *,
    fusion: int | str = 30,
    grid: int = 224,
    keep_tail: bool = False,
    direct: bool = False,
    gop: int | None = None,
    fps: int | None = None,
    short_side: int | None = None,
    quality: int | None = None,
    cache: str | Path | None = None,
    workers: int = 1,
) -> Video:
    """Open a video with its primitives; encodes and extracts it first unless the cache has it with these settings.

    Settings have the names and defaults of `cope encode` and `cope extract`.

    Args:
        video: a video file, or the name of a cache entry; `~` is expanded.
        fusion: fusion window in frames; "auto" or "auto:N" ends windows when enough has happened.
        grid: side G of the square grid of motion and residual, a multiple of 16.
        keep_tail: make the last frame a slot too.
        direct: read the primitives from the file's own stream, without re-encoding.
        gop: distance between I-frames in frames (default: 240).
        fps: frame rate of the encoded stream, frames per second (default: 30).
        short_side: the shorter side is scaled down to at most this, pixels; 0 keeps the size (default: 384).
        quality: quantiser, 2 (best) to 31 (smallest) (default: 4).
        cache: the cache folder (default: `COPE_CACHE`, or `cope_cache`).
        workers: processes that share a long video; more than one needs a `__main__` guard in a script.

    Raises:
        PathNotFoundError: there is no such file, and no such entry.
        UsageError: a setting is out of range, or `direct` does not use it.
        VideoError, StorageError: the video cannot be read, or the cache cannot be written.
    """
    library = Cache(cache)
    extract = ExtractConfig(grid_px=grid, keep_tail=keep_tail, **parse_fusion(str(fusion)))
    path = Path(video).expanduser()
    if not path.is_file():
        return _entry_of(library, str(video), extract, direct=direct)
    given: dict[str, int | None] = {"gop_frames": gop, "fps": fps, "short_side_px": short_side, "quality": quality}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    store = library.store
    if direct:
        if unused := sorted(changes.keys() - {"gop_frames"}):
            raise UsageError(f"direct=True does not use {', '.join(unused)}: the video is not re-encoded")
        config = DirectConfig(extract=extract, **changes)
        name = extract_direct(path, store, config, known=known_sources(store)).name
    else:
        known = {entry.source_path: entry for entry in store.usable_encoded()[0]}
        encoded = encode_video(path, store, EncodeConfig(**changes), known=known, workers=workers)
        name = extract_video(encoded.name, store, extract, workers=workers).name
    entry = store.primitives_entry(name)
    assert entry is not None
    return Video(entry, store)


def _entry_of(library: Cache, name: str, extract: ExtractConfig, *, direct: bool) -> Video:
    """Return the entry of a name; where a video has several, the one with these settings."""
    found = library.named(name)
    if not found:
        try:
            return library[name]
        except EntryNotFoundError as error:
            raise PathNotFoundError(f"{name}: no such file; {error.message}", error.hint) from None
    fitting = [
        entry
        for entry in found
        if ExtractConfig.from_dict(entry.manifest.config) == extract and entry.is_direct == direct
    ]
    return Video(_only(fitting if len(found) > 1 and fitting else found, name), library.store)


def encode(
    videos: str | Path | Iterable[str | Path],
    config: EncodeConfig | None = None,
    *,
    cache: str | Path | None = None,
    workers: int = 1,
    force: bool = False,
) -> list[EncodeRecord]:
    """Encode videos into a cache, as `cope encode` does; finished ones are skipped.

    Args:
        videos: video files and folders; folders are searched.
        config: how to encode (default: `EncodeConfig()`).
        cache: the cache folder (default: `COPE_CACHE`, or `cope_cache`).
        workers: processes at a time; 0 means one per core. More than one needs a `__main__` guard in a script.
        force: encode finished videos again.

    Returns:
        One record per video, in the order of their paths.

    Raises:
        CopeError: videos failed; all others were still encoded.
    """
    paths = [Path(path).expanduser() for path in _listed(videos)]
    return _run(encode_batch(paths, cache_folder(cache), config or EncodeConfig(), workers=workers, force=force))


def extract(
    videos: str | Path | Iterable[str | Path] = (),
    config: ExtractConfig | None = None,
    *,
    cache: str | Path | None = None,
    workers: int = 1,
    force: bool = False,
) -> list[ExtractRecord]:
    """Extract the primitives of encoded videos, as `cope extract` does; finished ones are skipped.

    Args:
        videos: source paths or entry names (default: every encoded video of the cache).
        config: fusion window, grid and tail (default: `ExtractConfig()`).
        cache: the cache folder (default: `COPE_CACHE`, or `cope_cache`).
        workers: processes at a time; 0 means one per core. More than one needs a `__main__` guard in a script.
        force: extract finished videos again.

    Returns:
        One record per encoded video.

    Raises:
        CopeError: videos failed; all others were still extracted.
    """
    names = [str(Path(video).expanduser()) for video in _listed(videos)]
    return _run(extract_batch(names, cache_folder(cache), config or ExtractConfig(), workers=workers, force=force))


def _listed(videos: str | Path | Iterable[str | Path]) -> list[str]:
    return [str(video) for video in ([videos] if isinstance(videos, str | Path) else videos)]


def _run(batch: Batch[Record]) -> list[Record]:
    """Run a batch to its end and return its results in the order of the items, or raise what failed."""
    parts = [batch]
    if batch.workers == 1:  # in this process: a script needs no `__main__` guard
        parts = [replace(batch, items=[item], errors={}) for item in batch.items] + [replace(batch, items=[])]
    outcomes = {outcome.item: outcome for part in parts for outcome in part.run()}
    failed = {item: outcome.error for item, outcome in outcomes.items() if outcome.error is not None}
    if failed:
        error = next(iter(failed.values()))
        if len(outcomes) == 1:
            raise error
        messages = "; ".join(found.message for found in failed.values())
        raise CopeError(f"{len(failed)} of {len(outcomes)} videos failed: {messages}", error.hint) from error
    results = (outcomes[item].result for item in batch.items)
    return [result for result in results if result is not None]
